"""ResNet's depth follows what is asked of it."""

import torch
from torch import nn

from models import create_backbone
from models.profile import profile


def test_stages_deeper_than_the_coarsest_asked_stride_are_not_built() -> None:
    with torch.device("meta"):
        backbone = create_backbone("resnet50", strides=(4, 16))
    stages = {name.split(".")[0] for name in backbone.state_dict() if name.startswith("layer")}
    assert stages == {"layer1", "layer2", "layer3"}
    assert backbone.unbuilt == ("layer4.",)


def test_resnet50_with_its_classifier_has_the_published_cost() -> None:
    # torchvision's table: 25,557,032 parameters, 4.09 x 10**9 multiply-adds
    with torch.device("meta"):
        backbone = create_backbone("resnet50", strides=(32,))
        classifier = nn.Linear(backbone.specs[-1].channels, 1000)
    measured = profile(backbone, (224, 224))
    assert measured.parameters + sum(p.numel() for p in classifier.parameters()) == 25_557_032
    assert round((measured.multiply_adds + classifier.weight.numel()) / 1e9, 2) == 4.09
