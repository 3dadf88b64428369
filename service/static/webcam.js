// Frames of the webcam: always the newest one, and one at a time.

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the camera.",
  NotReadableError: "The camera cannot be read; another program may be using it.",
};

export class Webcam {
  #stream = null;
  #video = document.createElement("video");
  session = 0; // counts the starts, so that a loop knows whether it is still meant

  constructor() {
    this.#video.muted = true;
    this.#video.playsInline = true;
  }

  get running() {
    return this.#stream !== null;
  }

  /** Asks for the camera; throws in words where there is none or it is refused. */
  async start() {
    if (!navigator.mediaDevices) {
      throw new Error("The webcam needs https or localhost.");
    }
    try {
      this.#stream = await navigator.mediaDevices.getUserMedia({
        video: { width: { ideal: 1280 }, height: { ideal: 720 }, facingMode: "user" },
      });
    } catch (error) {
      throw new Error(REASONS[error.name] ?? "No camera was found.");
    }
    this.#video.srcObject = this.#stream;
    try {
      await this.#video.play();
    } catch {
      this.stop();
      throw new Error("The camera cannot be shown.");
    }
    this.session += 1;
  }

  stop() {
    this.#stream?.getTracks().forEach((track) => track.stop());
    this.#stream = null;
    this.#video.srcObject = null;
  }

  /** What the camera sees now: { image, blob }; without a blob where it sees nothing any more. */
  async frame() {
    if (!this.#stream?.getVideoTracks().some(({ readyState }) => readyState === "live")) return {};
    const canvas = document.createElement("canvas");
    canvas.width = this.#video.videoWidth;
    canvas.height = this.#video.videoHeight;
    canvas.getContext("2d").drawImage(this.#video, 0, 0);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.88));
    return { image: canvas, blob };
  }
}
