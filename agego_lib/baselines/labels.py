"""EgoPW's pseudo labels, by an optimisation over whole sequences that reads no label of theirs (see egopw.py)."""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional as F

from agego_lib.datasets import DatasetError
from agego_lib.progress import bar
from agego_lib.skeleton import BONES, bones

from .selfpose import rotations

# What the optimisation holds for likely, as standard deviations.
DETECTED = np.radians(1.0)  # of a joint's direction in the head camera, for a heatmap whose peak is 1; over the peak
OUTSIDE = 0.05  # m at the body's distance: of a joint in the outside picture
BONE = 0.02  # m: of a bone from frame to frame
LENGTH = 0.06  # share: of a person's bones from those of the labelled people
ACCELERATION = 0.015  # m a frame squared: of a joint, as the outside camera sees it, which stands still
TURN = 0.02  # rad a frame squared: of the head camera
# The labelled people's cameras are not mounted as the others': so far more their poses may turn and move.
MOUNT_TURN, MOUNT_SHIFT = np.radians(8.0) * np.array([1.0, 0.3, 0.3]), 0.05  # rad about the camera's axes; m
PRIOR = 0.2  # weight of the Gaussian of poses, whose tails are too thin
OUTLIER = 3.0  # deviations from which on a residual counts ever less
RIDGE = 3.0  # of the regression of distances on directions, of unit vectors
STEPS, RATE = (150, 500), 0.03  # of Adam: by the head camera alone, then with both
AROUND = 10  # frames to either side over which the outside camera's first turns are averaged


def check_outside(sequences):
    """Raise DatasetError where a prepared sequence has no outside view, or too few joints in it to place the camera."""
    lacking = [s for s in sequences if s.outside is None]
    if lacking:
        raise DatasetError(
            f"{lacking[0].path}: no view from outside, and {len(lacking) - 1} more without, of {len(sequences)}; the "
            "baseline egopw learns from one. Put an outside.npz (frame_names, joints_2d, confidence, intrinsics) "
            "beside imgs/ of each of EgoPW's training sequences and prepare the data again, or take egopw out of "
            "ablation.baselines: egopw_one_view needs none"
        )
    for s in sequences:
        most = _found(s.outside).sum(1).max()
        if most < 6:
            raise DatasetError(
                f"{s.path}: its view from outside has at most {most} joints in a frame; expected 6 somewhere, to place "
                "the camera by. Write its outside.npz again, or leave the sequence out"
            )


def _found(outside):
    return np.isfinite(outside.joints_2d).all(-1) & (outside.confidence > 0)


class _Observed:
    """All that the optimisation reads of N frames of some sequences, as tensors.

    rays (N, 15, 3) of the heatmaps' peaks, peaks (N, 15), sequence (N,), ends (N, 2): first and last frame of each
    one's sequence; even (N - 2,): whether a frame, the next and the one after it are of one sequence and as far apart
    as its closest. From outside: seen (N, 15, 2), pixels on the plane at a metre, weight (N, 15), 0 where not found.
    """

    def __init__(self, frames, outside, chunk=256):
        rays, peaks, even, seen, weight, ends, start = [], [], [], [], [], [], 0
        for number, s in enumerate(frames.sequences):
            for first in range(0, len(s), chunk):
                part = frames.frames(number, np.arange(first, min(first + chunk, len(s))))
                rays.append(part["rays"])
                peaks.append(part["heatmaps"].max((2, 3)))
            gaps = np.diff(s.frame_numbers)
            close = np.append(gaps == gaps.min() if len(gaps) else gaps, [False, False]).astype(bool)
            even.append(close[: len(s)] & np.append(close[1:], False)[: len(s)])
            ends.append(np.tile([start, start + len(s) - 1], (len(s), 1)))
            start += len(s)
            if outside:
                found, k = _found(s.outside), s.outside.intrinsics
                pixels = (s.outside.joints_2d - k[:2, 2]) / k[[0, 1], [0, 1]]
                seen.append(np.where(found[..., None], pixels, 0))
                weight.append(np.where(found, s.outside.confidence, 0))
        self.rays, self.peaks = (torch.from_numpy(np.concatenate(parts)).float() for parts in (rays, peaks))
        lengths = torch.tensor([len(s) for s in frames.sequences])
        self.sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        self.ends = torch.from_numpy(np.concatenate(ends))
        self.even = torch.from_numpy(np.concatenate(even))[:-2]
        if outside:
            self.seen, self.weight = (torch.from_numpy(np.concatenate(parts)).float() for parts in (seen, weight))


class _Prior:
    """What the labelled domain tells of poses: a Gaussian, bone lengths (14,) m, distances by directions."""

    def __init__(self, frames):
        parts = [frames.frames(i, np.arange(len(s))) for i, s in enumerate(frames.sequences)]
        poses = np.concatenate([p["joints_3d"] for p in parts]).astype(np.float64)
        rays = torch.from_numpy(np.concatenate([p["rays"] for p in parts])).flatten(1)
        rng = np.random.default_rng(0)
        turns = Rotation.from_rotvec(MOUNT_TURN * rng.normal(size=(len(poses), 3))).as_matrix()
        moved = np.einsum("nij,nkj->nki", turns, poses) + MOUNT_SHIFT * rng.normal(size=(len(poses), 1, 3))
        moved = moved.reshape(len(poses), -1)
        # Nothing is known to less than some centimetres.
        root = np.linalg.inv(np.linalg.cholesky(np.cov(moved.T) + 1e-3 * np.eye(moved.shape[1])))
        self.mean, self.root = torch.from_numpy(moved.mean(0)).float(), torch.from_numpy(root).float()
        lengths = np.linalg.norm(bones(poses), axis=-1).mean(0)
        self.lengths = torch.from_numpy(lengths).float()
        x, y = F.pad(rays, (0, 1), value=1.0), torch.from_numpy(np.linalg.norm(poses, axis=-1)).float().log()
        self.regression = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]), x.T @ y)

    def distances(self, rays: Float[Tensor, "N 15 3"]) -> Float[Tensor, "N 15"]:
        return (F.pad(rays.flatten(1), (0, 1), value=1.0) @ self.regression).exp()

    def energy(self, poses):
        """(N,), squared deviations of poses (N, 15, 3) from the Gaussian."""
        return ((poses.flatten(1) - self.mean) @ self.root.T).square().sum(1)


def robust(squares):
    """Squared deviations, of which those beyond OUTLIER grow ever slower (Cauchy's function)."""
    return OUTLIER**2 * torch.log1p(squares / OUTLIER**2)


def camera_turns(poses: Float[Tensor, "N 15 3"], observed) -> Float[Tensor, "N 3 3"]:
    """First turns of the outside camera against the head's: those of each frame by itself (PnP), averaged over time.

    Frames of which PnP finds none, such as those whose joints are seen in one place, count for nothing there.
    """
    turns, known = np.tile(np.eye(3), (len(poses), 1, 1)), np.zeros(len(poses))
    for i, (pose, seen, weight) in enumerate(
        zip(poses.double().numpy(), observed.seen.double().numpy(), observed.weight.numpy(), strict=True)
    ):
        found = weight > 0
        if found.sum() < 6:
            continue
        try:
            done, turn, place = cv2.solvePnP(pose[found], seen[found], np.eye(3), None, flags=cv2.SOLVEPNP_SQPNP)
        except cv2.error:  # its words for points that are too near to each other
            continue
        if not done:
            continue
        turn = cv2.Rodrigues(turn)[0]
        if (pose @ turn.T + place.T)[:, 2].min() > 0.3:
            turns[i], known[i] = turn, weight.sum()
    turns, known = torch.from_numpy(turns), torch.from_numpy(known)
    around = torch.arange(-AROUND, AROUND + 1)
    near = (torch.arange(len(poses))[:, None] + around).clamp(observed.ends[:, :1], observed.ends[:, 1:])
    weight = (known + 1e-6)[near] * torch.exp(-0.5 * (around / (AROUND / 2)) ** 2)
    mean = turns
    for _ in range(5):
        # The nearest rotation to the mean of the matrices; those that are far from it count ever less.
        left, _, right = torch.linalg.svd((weight[..., None, None] * turns[near]).sum(1))
        left = torch.cat([left[..., :2], left[..., 2:] * torch.linalg.det(left @ right)[:, None, None]], dim=-1)
        mean = left @ right
        off = (mean[:, None] - turns[near]).square().sum((-1, -2))
        weight = known[near].clamp_min(1e-6) * torch.exp(-0.5 * (around / (AROUND / 2)) ** 2) / (1 + off / 0.1)
    return mean.float()


def camera_places(turned: Float[Tensor, "N 15 3"], observed) -> Float[Tensor, "N 3"]:
    """Where poses that are turned into the outside camera's axes lie before it: least squares of what it sees."""
    u, w = observed.seen, observed.weight[..., None]
    one, zero = torch.ones_like(w[..., 0]), torch.zeros_like(w[..., 0])
    rows = torch.stack([torch.stack([one, zero, -u[..., 0]], -1), torch.stack([zero, one, -u[..., 1]], -1)], dim=2)
    a = (w[..., None] * rows).flatten(1, 2)
    b = (w * (u * turned[..., 2:] - turned[..., :2])).flatten(1)
    # A frame in which nothing was found stands 3 m away, until its neighbours move it.
    weak = 1e-4 * torch.eye(3)
    right = (a.mT @ b[..., None])[..., 0] + 1e-4 * torch.tensor([0.0, 0.0, 3.0])
    return torch.linalg.solve(a.mT @ a + weak, right)


def _descend(energy, parameters, steps, progress):
    adam = torch.optim.Adam(parameters, betas=(0.9, 0.99))
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = RATE * (0.02 + 0.98 * (1 + np.cos(np.pi * step / steps)) / 2)
        adam.zero_grad()
        energy().backward()
        adam.step()
        progress.update()


def pseudo_labels(wild, labelled, outside=True, label="pseudo labels"):
    """Poses of the frames of `wild`, whose labels are not read -> list of (N_i, 15, 3) float32 m, one a sequence.

    wild, labelled: FrameFeatures, the latter with the labels that the prior is made of. outside: whether the view from
    outside is read too. Raises DatasetError where it is not there.
    """
    if outside:
        check_outside(wild.sequences)
    seen, prior = _Observed(wild, outside), _Prior(labelled)
    direction = DETECTED / seen.peaks.clamp(0.05, 1)
    # A joint is its distance times its direction: the head camera tells much of one and little of the other.
    far = prior.distances(seen.rays).log()[..., None].requires_grad_()
    aside = torch.zeros_like(seen.rays, requires_grad=True)
    size = torch.zeros(len(wild.sequences), len(BONES), requires_grad=True)  # in deviations
    camera = []

    def poses():
        return far.exp() * (seen.rays + 0.3 * aside)

    def energy():
        joints = poses()
        off = (F.normalize(joints, dim=-1) - seen.rays).square().sum(-1)
        lengths = prior.lengths * (LENGTH * size).exp()
        total = robust(off / direction.square()).sum() + PRIOR * prior.energy(joints).sum()
        total = total + ((bones(joints).norm(dim=-1) - lengths[seen.sequence]) / BONE).square().sum()
        total = total + (size.square().sum(1)[seen.sequence]).sum()
        if camera:
            six, place = camera
            turn = rotations(six)
            joints = joints @ turn.mT + place[:, None]
            off = (joints[..., :2] / joints[..., 2:].clamp_min(0.2) - seen.seen).square().sum(-1)
            spread = OUTSIDE / joints[..., 2].detach().clamp_min(0.5).mean(1, keepdim=True)
            total = total + (seen.weight * robust(off / spread.square())).sum()
            moves = turn[1:] @ turn[:-1].mT
            # Half the squared distance of two rotation matrices is about their angle's square.
            jerks = (moves[1:] - moves[:-1]).square().sum((-1, -2)) / 2
            total = total + (jerks * seen.even).sum() / TURN**2
        bends = (joints[2:] - 2 * joints[1:-1] + joints[:-2]).square().sum(-1) / ACCELERATION**2
        return (total + (robust(bends) * seen.even[:, None]).sum()) / len(joints)

    with bar(STEPS[0] + (STEPS[1] if outside else 0), label, "step") as progress:
        _descend(energy, [far, aside, size], STEPS[0], progress)
        if outside:
            with torch.no_grad():
                turn = camera_turns(poses(), seen)
                place = camera_places(poses() @ turn.mT, seen)
            # Two columns, as `rotations` takes them.
            camera += [turn[..., :2].mT.flatten(1).clone().requires_grad_(), place.clone().requires_grad_()]
            _descend(energy, [far, aside, size, *camera], STEPS[1], progress)
    lengths = [len(s) for s in wild.sequences]
    return [part.numpy() for part in poses().detach().split(lengths)]
