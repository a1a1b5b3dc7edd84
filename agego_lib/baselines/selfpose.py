"""SelfPose: xR-EgoPose's lifter with a branch of joint rotations."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from agego_lib.losses import position_loss
from agego_lib.skeleton import BONES

from .xr_egopose import XREgoPose


def rotations(six: Float[Tensor, "*N 6"]) -> Float[Tensor, "*N 3 3"]:
    """Two vectors each -> rotations, whose first two columns they become by Gram-Schmidt (Zhou et al., CVPR 2019)."""
    a, b = six.unflatten(-1, (2, 3)).unbind(-2)
    x = F.normalize(a, dim=-1)
    y = F.normalize(b - (x * b).sum(-1, keepdim=True) * x, dim=-1)
    return torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)


def forward_kinematics(
    local: Float[Tensor, "B 15 3 3"], root: Float[Tensor, "B 3"], bones: Float[Tensor, "15 3"]
) -> Float[Tensor, "B 15 3"]:
    """Joints from each joint's rotation against its parent's, the root's place, and bones at rest, parent to child.

    The root's own rotation is against the camera. A joint turns what hangs on it; that of a limb's end turns nothing.
    """
    places, turns = [root] + [None] * (len(bones) - 1), [local[:, 0]] + [None] * (len(bones) - 1)
    for parent, child in BONES:  # parents come before their children
        places[child] = places[parent] + turns[parent] @ bones[child]
        turns[child] = turns[parent] @ local[:, child]
    return torch.stack(places, dim=1)


class SelfPose(XREgoPose):
    """xR-EgoPose's lifter with a third branch, joint rotations (Tome et al., TPAMI 2023).

    Kept: xR-EgoPose's bottleneck with the branches to the pose and back to the heatmaps, and a third one that gives
    each joint's rotation against its parent's; the pose branch's joints are the result. Not kept: what `XREgoPose` does
    not keep; labels of rotations, which these data sets lack: joints made of the rotations by forward kinematics, with
    the training people's mean bone lengths, are held against the true joints.
    """

    def __init__(self, num_joints, side, mean_pose, bones, input_scale=1.0):
        """bones: (15, 3) m, of the pose at rest, from each joint's parent; the root's is not read."""
        super().__init__(num_joints, side, mean_pose, input_scale)
        self.turn = nn.Sequential(
            nn.Linear(self.embedding, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2),
            nn.Linear(64, 6 * num_joints + 3),
        )  # fmt: skip
        self.register_buffer("bones", torch.as_tensor(bones).float())
        self.register_buffer("still", torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def turned(self, z):
        """Joints (B, J, 3) that the rotations of an embedding (B, 20) give."""
        six, root = self.turn(z).split([6 * len(self.bones), 3], dim=1)
        return forward_kinematics(rotations(six.unflatten(1, (-1, 6)) + self.still), self.mean[0] + root, self.bones)

    def own_terms(self, z, batch):
        return super().own_terms(z, batch) | {"rotations": position_loss(self.turned(z), batch["joints_3d"])}
