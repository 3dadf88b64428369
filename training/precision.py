"""What a network computes in: 32 bits, or 16 where a device is faster with them."""

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arithmetic(precision: str, device: torch.device) -> torch.dtype:
    """What a network computes in on a device.

    A processor without bfloat16 imitates it, five times slower than it computes with 32 bits, so
    `auto` takes it only where it is real.
    """
    if precision != "auto":
        return PRECISIONS[precision]
    if device.type == "cuda":
        real = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        real = any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return torch.bfloat16 if real else torch.float32
