"""Every setting of the server, once: environment `HRPOSE_<NAME>`, and a flag of `hrpose serve`."""

from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

MIB = 2**20


class Settings(BaseSettings):
    """What a server may be told; each value is checked when it starts."""

    model_config = SettingsConfigDict(env_prefix="HRPOSE_", frozen=True, extra="forbid")

    allow_random: bool = Field(
        default=False,
        description="Serve networks without trained weights; their answers say so.",
    )
    host: str = Field(
        default="127.0.0.1", description="Address to listen on; 0.0.0.0 is every one."
    )
    port: int = Field(
        default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one."
    )
    model: str = Field(
        default="default",
        min_length=1,
        description="What `default` means: a network or checkpoint file.",
    )
    detector: str = Field(
        default="movenet_multipose",
        min_length=1,
        description="Network that finds person boxes for pose networks; `none` takes whole images.",
    )
    device: str = Field(
        default="cpu",
        pattern=r"^(cpu|cuda(:\d+)?)$",
        description="Where networks run: cpu, cuda or cuda:N.",
    )
    runtime: Literal["auto", "openvino", "onnx", "torch"] = Field(
        default="auto",
        description="What runs networks: openvino, onnx (both CPU only) or torch; auto is the "
        "fastest that is installed.",
    )
    precision: Literal["exact", "fast"] = Field(
        default="exact",
        description="exact: 32-bit as torch; fast: bfloat16 where OpenVINO and the processor "
        "have it.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        description="CPU threads, each with an image of its own (torch: all with the same batch); "
        "0 is one a core.",
    )
    max_batch: int = Field(default=8, ge=1, description="Most person crops that run at once.")
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="How long a crop waits for company, in ms.",
    )
    max_queue: int = Field(
        default=256, ge=1, description="Most person crops that may wait for a network."
    )
    max_upload_mb: float = Field(
        default=16.0, gt=0, allow_inf_nan=False, description="Largest request body, in MiB."
    )
    max_megapixels: float = Field(
        default=50.0, gt=0, allow_inf_nan=False, description="Largest image, in millions of pixels."
    )
    max_people: int = Field(
        default=100, ge=1, description="Most people answered, and boxes taken, an image."
    )
    timeout_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time for one request, in seconds.",
    )
    max_requests: int = Field(
        default=64, ge=1, le=1024, description="Most requests worked on at once; more are refused."
    )
    drain_s: float = Field(
        default=25.0,
        ge=0,
        allow_inf_nan=False,
        description="Longest time to finish accepted requests when told to stop, in seconds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged: debug, info, warning or error."
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Keys that clients must send, separated by commas; better set by environment.",
    )

    engine: Literal["uvicorn", "ray"] = Field(
        default="uvicorn",
        description="uvicorn: this one process; ray: replicas on Ray Serve, which has to be "
        "installed.",
    )
    replicas: int = Field(default=1, ge=1, description="Replicas on Ray Serve: at least so many.")
    max_replicas: int = Field(
        default=0, ge=0, description="At most so many replicas; 0 is as many as at least."
    )
    target_ongoing_requests: float = Field(
        default=4.0,
        gt=0,
        allow_inf_nan=False,
        description="Requests a replica should hold; Ray adds or takes replicas to keep to it.",
    )

    @property
    def max_upload_bytes(self) -> int:
        """Largest request body in bytes."""
        return int(self.max_upload_mb * MIB)

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; empty where anybody may ask."""
        parts = self.api_keys.get_secret_value().split(",")
        return tuple(key.strip() for key in parts if key.strip())
