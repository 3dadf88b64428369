"""Every setting of the server, once: environment `HRPOSE_<NAME>`, and a flag of `hrpose serve`."""

import os
import re
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from heads.validation import DeviceName
from service.image_hosts import check_hosts
from service.rates import check_rate

MIB = 2**20

DAY_S = 86_400
"""The longest that any time may be: what means forever is too long for the system's clocks."""

_Time = Annotated[float, Field(gt=0, le=DAY_S, allow_inf_nan=False)]

_PREFIX = "HRPOSE_"

_OTHER_VARIABLES = {"HRPOSE_CACHE", "HRPOSE_OFFLINE"}
"""Of the library, not of the server alone."""

_NEARLY = 0.88
"""Of two names as alike as this, prefix included, one is taken for the other misspelt."""

_ENDPOINT = re.compile(r"https?://[^\s/?#]\S*")

_ORIGIN = re.compile(r"https?://[^\s/?#@*]+")


class Settings(BaseSettings):
    """What a server may be told; each value is checked when it starts."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid")

    allow_random: bool = Field(
        default=False,
        description="Serve networks without trained weights; their answers say so.",
    )
    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address to listen on; 0.0.0.0 is every one, :: also those of IPv6.",
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
    models_dir: str = Field(
        default="",
        description="Folder: its NAME.safetensors and NAME.onnx are served as NAME; empty is none.",
    )
    device: DeviceName = Field(
        default="cpu",
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
        "0 is one a core that it may use, container's quota included.",
    )
    threads_per_image: int = Field(
        default=1,
        ge=1,
        description="CPU threads that work on the same image (openvino, onnx): more than one "
        "answers a lone client sooner, and many clients later.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Server processes on this address, each with networks and threads of its own.",
    )
    max_batch: int = Field(default=8, ge=1, description="Most person crops that run at once.")
    max_wait_ms: float = Field(
        default=0.0,
        ge=0,
        le=60_000,
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
    max_pixels_mb: float = Field(
        default=256.0,
        gt=0,
        allow_inf_nan=False,
        description="Most bytes of decoded images at once, in MiB; others wait. A larger one goes "
        "alone.",
    )
    max_people: int = Field(
        default=100, ge=1, description="Most people answered, and boxes taken, an image."
    )
    max_models: int = Field(
        default=16,
        ge=1,
        description="Networks loaded at once; the one that was not asked for longest makes room. "
        "The default network and the detector stay.",
    )
    timeout_s: _Time = Field(
        default=30.0,
        description="Longest time for one request, in seconds.",
    )
    max_requests: int = Field(
        default=64, ge=1, le=1024, description="Most requests worked on at once; more are refused."
    )
    max_queue_mb: float = Field(
        default=256.0,
        validate_default=True,
        gt=0,
        allow_inf_nan=False,
        description="Most bytes of bodies that all requests together may hold, in MiB; more are "
        "refused.",
    )
    header_timeout_s: _Time = Field(
        default=10.0,
        description="Longest time until the head of a request is there, in seconds; its connection "
        "is closed then.",
    )
    send_timeout_s: _Time = Field(
        default=60.0,
        description="Longest time for a client to take its answer, in seconds; its connection is "
        "closed then.",
    )
    keep_alive_s: _Time = Field(
        default=75.0,
        description="Longest time that a connection stays open between requests, in seconds; more "
        "than proxies keep theirs, which else send a request into one that closes.",
    )
    max_connections: int = Field(
        default=1000, ge=1, description="Most connections open at once; more are refused."
    )
    drain_s: float = Field(
        default=25.0,
        ge=0,
        le=DAY_S,
        allow_inf_nan=False,
        description="Longest time to finish accepted requests when told to stop, in seconds.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged: debug, info, warning or error."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people (text) or for programs (json)."
    )
    otel_endpoint: str = Field(
        default="",
        description="Where traces are sent, as http://collector:4318/v1/traces; empty is nowhere.",
    )
    api_keys: SecretStr = Field(
        default=SecretStr(""),
        description="Keys that clients must send, separated by commas; better set by environment. "
        "They have the scope infer, `admin:KEY` has admin.",
    )
    api_keys_file: str = Field(
        default="",
        description="File of hashed keys with scopes and rates, a line each: see `hrpose key`.",
    )
    rate_limit: str = Field(
        default="",
        description="How often a key may ask, or an address where there are no keys, such as "
        "100/minute or 5/second;1000/hour; empty is as often as it likes.",
    )
    cors_origins: str = Field(
        default="",
        description="Origins whose pages may ask, such as https://example.com, separated by "
        "commas; `*` is every one, empty is none but the server's own.",
    )
    image_urls: str = Field(
        default="",
        description="Hosts from which images may be fetched by `image_url`, such as example.com "
        "or *.example.com, separated by commas; `*` is every public host, empty is none.",
    )

    @model_validator(mode="before")
    @classmethod
    def _check_environment(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Refuses a variable that is nearly a setting's: HRPOSE_API_KEY would leave a server open.

        What is far from all of them is somebody else's, as what Kubernetes sets for a Service.
        """
        right = {f"{_PREFIX}{name.upper()}" for name in cls.model_fields} | _OTHER_VARIABLES
        named = {name.upper() for name in os.environ if name.upper().startswith(_PREFIX)}
        for name in sorted(named - right):
            if near := get_close_matches(name, right, 1, _NEARLY):
                raise ValueError(f"{name} in the environment is no setting; {near[0]} is")
        return given

    @field_validator("otel_endpoint")
    @classmethod
    def _check_endpoint(cls, url: str) -> str:
        if url and not _ENDPOINT.fullmatch(url):
            raise ValueError("should be as http://collector:4318/v1/traces")
        return url

    @field_validator("rate_limit")
    @classmethod
    def _check_rate(cls, rate: str) -> str:
        check_rate(rate)
        return rate

    @field_validator("image_urls")
    @classmethod
    def _check_hosts(cls, hosts: str) -> str:
        check_hosts(words_of(hosts))
        return hosts

    @field_validator("max_queue_mb")
    @classmethod
    def _check_room(cls, size: float, info: ValidationInfo) -> float:
        if size < info.data.get("max_upload_mb", 0.0):
            raise ValueError("should be at least max_upload_mb, or a body may never fit")
        return size

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: str) -> str:
        for origin in words_of(origins):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError("an origin should be as https://example.com, without a path")
        return origins

    engine: Literal["uvicorn", "ray"] = Field(
        default="uvicorn",
        description="uvicorn: processes of this machine, see workers; ray: replicas on Ray Serve, "
        "which has to be installed.",
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
    def max_queue_bytes(self) -> int:
        """Bytes of bodies that requests together may hold."""
        return int(self.max_queue_mb * MIB)

    @property
    def keys(self) -> tuple[str, ...]:
        """The API keys; empty where anybody may ask."""
        return words_of(self.api_keys.get_secret_value())


def words_of(text: str) -> tuple[str, ...]:
    """What stands between the commas of a setting."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
