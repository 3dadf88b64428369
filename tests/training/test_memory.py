"""What a run holds while it reads: the index, and one batch; it keeps what a step frees."""

import os
import platform
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from heads.codec import HeatmapCodec
from heads.image import encode_image
from heads.skeleton import COCO_17
from tests.processes import page_faults
from training.augment import Augmentation
from training.data import EpochSampler, PoseDataset, Sample

SIZE = (360, 480)
PEOPLE = 400
BATCH = 1


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """A photograph each; decoded they are 207 MB."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    samples = []
    for i in range(PEOPLE):
        blocks = rng.integers(0, 256, (SIZE[0] // 40, SIZE[1] // 40, 3), np.uint8)
        path = folder / f"{i}.jpg"
        path.write_bytes(encode_image(blocks.repeat(40, axis=0).repeat(40, axis=1)))
        points = rng.uniform((100, 50), (200, 300), (17, 2)).astype(np.float32)
        box = (100.0, 50.0, 100.0, 250.0)
        samples.append(Sample(path, SIZE, box, points, np.ones(17, np.float32), ""))
    return samples


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def read(people: list[Sample], batches: int) -> None:
    codec = HeatmapCodec((64, 48), (16, 12))
    dataset = PoseDataset(people, codec, Augmentation(COCO_17, (64, 48)))
    sampler = EpochSampler(np.ones(len(people), np.float32), batches * BATCH, 0)
    for images, _, _ in DataLoader(dataset, BATCH, sampler=sampler):
        assert images.shape == (BATCH, 64, 48, 3)


def test_ten_times_the_data_needs_no_more_memory_and_leaves_no_file_open(
    people: list[Sample],
) -> None:
    read(people[: PEOPLE // 10], 100)
    memory, files = resident_mb(), len(os.listdir("/proc/self/fd"))
    read(people, 1000)
    assert resident_mb() - memory < 30  # all photographs decoded are 207 MB
    assert len(os.listdir("/proc/self/fd")) == files


STEPS = """
import resource, sys
import numpy as np
from models.memory import keep_freed

def step():
    maps = [np.ones(2**23) for _ in range(3)]  # 64 MiB each

if "keep" in sys.argv:
    keep_freed()
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_a_step_gets_its_memory_from_the_one_before() -> None:
    pages = 5 * 3 * 2**26 // os.sysconf("SC_PAGE_SIZE")
    alone = page_faults(STEPS)
    assert alone > pages // 100
    assert page_faults(STEPS, "keep") < alone // 100
    own = page_faults(STEPS, "keep", MALLOC_TRIM_THRESHOLD_="131072")
    assert own == pytest.approx(alone, rel=0.1)
