"""Mo2Cap2: 2D joints and their distances; with a second detector for the lower body."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from agego_lib.datasets import FrameDataset
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.images import normalise

from .base import Baseline, Joints
from .lens import unproject

LOWER = [8, 9, 10, 12, 13, 14]  # knees, ankles, toes


class Mo2Cap2(Baseline):
    """2D joints and, for each, its distance along the fisheye camera's ray (Xu et al., TVCG 2019).

    Kept: 3D joints are 2D detections pushed out along their rays through the calibrated camera; distances are
    regressed from the detector's features. Not kept: training on distances alone (the loss is Sec. 3.4's on the
    resulting joints, as for every method here), and the second detector, which `mo2cap2_zoom` has.
    """

    def __init__(self, num_joints, channels, mean_distance):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()
        )
        self.distances = nn.Sequential(nn.Linear(128 * 16 + 2 * num_joints, 256), nn.ReLU(), nn.Linear(256, num_joints))
        self.register_buffer("mean", torch.as_tensor(mean_distance).float())

    def seen(self, batch: dict[str, Tensor]) -> Float[Tensor, "B 256"]:
        """What tells the distances."""
        found = torch.cat([self.features(batch["trunk"]), batch["pixels"].flatten(1)], dim=1)
        return self.distances[:2](found)

    def placed(self, batch: dict[str, Tensor], seen: Float[Tensor, "B 256"]) -> Joints:
        """Joints on their rays, at the distances that `seen` tells."""
        return batch["rays"] * (self.mean + self.distances[2](seen)).unsqueeze(-1)

    def forward(self, batch):
        return self.placed(batch, self.seen(batch))


@dataclass(frozen=True)
class Zoom:
    """The square of a view that the second detector sees enlarged: its upper left corner and its side, shares of the
    view's side."""

    left: float
    top: float
    side: float

    @classmethod
    def on_lower_body(cls, sequences, share=0.95):
        """The smallest square about the middle of the lower body's 2D labels that holds this share of them along u and
        along v. Raises ValueError where no sequence has such a label in its view."""
        joints = np.concatenate([s.joints_view(1)[:, LOWER].reshape(-1, 2) + 0.5 for s in sequences])
        joints = joints[((joints > 0) & (joints < 1)).all(-1)]
        if not len(joints):
            raise ValueError("no knee, ankle or toe is labelled within the view, which mo2cap2_zoom looks at")
        low, high = np.quantile(joints, [(1 - share) / 2, (1 + share) / 2], axis=0)
        side = min(1.0, (high - low).max())
        left, top = np.clip((low + high - side) / 2, 0, 1 - side)
        return cls(float(left), float(top), float(side))

    def enlarged(self, image: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "3 S S"]:
        """What lies in the square, at the view's size."""
        size, scale = len(image), 1 / self.side
        move = [[scale, 0, (0.5 - self.left * size) * scale - 0.5], [0, scale, (0.5 - self.top * size) * scale - 0.5]]
        zoomed = cv2.warpAffine(image, np.array(move), (size, size), borderMode=cv2.BORDER_REPLICATE)
        return np.ascontiguousarray(zoomed.transpose(2, 0, 1))

    def inside(self, places: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
        """Places in the view -> in the square, both as shares of their sides."""
        return (places - places.new_tensor([self.left, self.top])) / self.side

    def outside(self, places: Float[Tensor, "*N 2"]) -> Float[Tensor, "*N 2"]:
        """`inside` back again."""
        return places * self.side + places.new_tensor([self.left, self.top])


class ZoomedFrames(FrameDataset):
    """A FrameDataset of what the second detector sees, with the lower body's labels alone."""

    def __init__(self, sequences, zoom: Zoom):
        super().__init__(sequences)
        self.zoom = zoom

    def __getitem__(self, item):
        found = super().__getitem__(item)
        image, size = found["image"].numpy().transpose(1, 2, 0), found["image"].shape[-1]
        joints = torch.full_like(found["joints"], torch.nan)
        joints[LOWER] = self.zoom.inside((found["joints"][LOWER] + 0.5) / size) * size - 0.5
        distances = torch.full_like(found["distances"], torch.nan)
        distances[LOWER] = found["distances"][LOWER]
        image = torch.from_numpy(self.zoom.enlarged(image))
        return found | {"image": image, "joints": joints, "distances": distances}


class Mo2Cap2Zoom(Mo2Cap2):
    """Mo2Cap2 with its second detector, which sees the lower body enlarged, as that is small in the picture.

    Kept, beside what Mo2Cap2 keeps: a second network of the detector's kind, for knees, ankles and toes, on the square
    of the view where most of them are; where the first finds them in that square, the second's places are taken. It
    starts from the first, learns as many steps and is frozen then. Not kept: a zoom into the full picture (the square
    is enlarged from the view that all methods see: finer maps, no finer picture), distances from its features.
    """

    def __init__(self, num_joints, channels, mean_distance, detector, zoom: Zoom):
        super().__init__(num_joints, channels, mean_distance)
        self.detector, self.zoom = detector, zoom

    def places(self, batch: dict[str, Tensor]) -> Float[Tensor, "B 6 2"]:
        """Where the second detector sees LOWER, in shares of the view's side, of `zoomed` images (B, 3, S, S) uint8."""
        with torch.no_grad():
            maps = self.detector(normalise(batch["zoomed"]).contiguous(memory_format=torch.channels_last)).sigmoid()
        places, _ = decode_heatmaps(maps[:, LOWER])
        return self.zoom.outside((places + 0.5) / maps.shape[-1])

    def found(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch with the second detector's places: its own `places`, where it holds what `places` gave, or new."""
        places = batch["places"] if "places" in batch else self.places(batch)
        pixels, rays = batch["pixels"].clone(), batch["rays"].clone()
        within = self.zoom.inside(pixels[:, LOWER])
        second = ((within > 0) & (within < 1) & places.isfinite()).all(-1, keepdim=True)
        # Places that are not taken may be no numbers; no ray goes through such.
        places = torch.where(second, places, pixels[:, LOWER])
        rays[:, LOWER] = torch.where(second, unproject(places, batch.get("lens")), rays[:, LOWER])
        pixels[:, LOWER] = places
        return batch | {"pixels": pixels, "rays": rays}

    def forward(self, batch):
        return super().forward(self.found(batch))
