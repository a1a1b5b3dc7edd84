"""A decoder beside the paper's (`decoder.kind: rays`): joints lie along the rays on which their heatmaps show them.

A heatmap says in which direction a joint is, to a fraction of a pixel; a small CNN over it (Eq. 2) keeps little of
that. Here each map gives numbers instead: the ray through its peak, of its second peak, how sure and how wide it is.
Attention over the joints of a frame and over the frames of a joint then finds how far along its ray each joint lies,
and where it is when its map says little. Unprojection along rays is known from EgoWholeMocap (Wang et al., 2024),
attention over each joint's frames from lifting in third-person video (Zhang et al., MixSTE, 2022).
"""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from agego_lib.camera import view
from agego_lib.heatmaps import decode_heatmaps
from agego_lib.skeleton import LEFT_RIGHT_PAIRS, NUM_JOINTS
from agego_lib.stature import AVERAGE, known, resized

RAYS = 3  # of each map: through its first and its second peak, and through its middle
TOKEN = 3 * RAYS + 5  # and the peaks' values, the spread along u and v, the sum
FARTHEST = 64  # frames beyond which time's distances count as one, where windows are trained on whole
APART = 7 / 64  # of the map's side: a second peak is at least so far from the first; 3.5 of Eq. 7's sigmas
MIRRORED = list(range(NUM_JOINTS))
for _right, _left in LEFT_RIGHT_PAIRS:
    MIRRORED[_right], MIRRORED[_left] = _left, _right

Tokens = Float[Tensor, "B T 15 token"]  # TOKEN numbers, and the distance where the heatmap network gives it
Joints = Float[Tensor, "B T 15 3"]


def unproject(places: Float[Tensor, "*N 2"], size: int) -> Float[Tensor, "*N 3"]:
    """Pixels of a "fovea" view of side `size` -> unit directions in the camera's frame, as `camera.view.rays`."""
    place = (places + 0.5) * (2 / size) - 1
    rho = torch.linalg.vector_norm(place, dim=-1, keepdim=True)
    fovea = math.radians(view.FOVEA)
    angle = rho / (view.SCALE**2 - (rho / fovea) ** 2).clamp_min(1e-12).sqrt()
    angle = angle.clamp_max(math.radians(view.WIDEST))
    local = torch.cat([place * angle.sin() / rho.clamp_min(1e-9), angle.cos()], dim=-1)
    return local @ torch.as_tensor(view.TURN.T, dtype=local.dtype, device=local.device)


class RayTokens(nn.Module):
    """Heatmaps of a "fovea" view -> what each says, as numbers; nothing is learned.

    Of each map: unit rays (camera frame) through its peak, through the highest value at least APART from it, and
    through its centre of mass (of squared values); the values of both peaks; the spread along u and v as shares of the
    side; the logarithm of 1 + the sum. A map without any value gives the middle's ray and zeros.
    distances: whether what `HeatmapNet.decode_all` says of the joint's distance comes last.
    """

    def __init__(self, distances: bool = False):
        super().__init__()
        self.distances = distances

    def forward(
        self, heatmaps: Float[Tensor, "B T 15 h w"], distances: Float[Tensor, "B T 15 1"] | None = None
    ) -> Tokens:
        maps = heatmaps.flatten(0, 2).float()
        size = maps.shape[-1]
        grid = torch.arange(size, dtype=maps.dtype, device=maps.device)
        first, high = self._peak(maps)
        across, down = ((grid - first[:, axis, None]).square() for axis in (0, 1))
        second, low = self._peak(maps * (down[:, :, None] + across[:, None, :] > (APART * size) ** 2))
        weights = maps.square()
        total = weights.sum((1, 2)).clamp_min(1e-12)
        share_u, share_v = weights.sum(1) / total[:, None], weights.sum(2) / total[:, None]
        mean = torch.stack([(share_u * grid).sum(1), (share_v * grid).sum(1)], dim=-1)
        spread = [
            (share * (grid - mean[:, axis, None]).square()).sum(1).clamp_min(0).sqrt() / size
            for axis, share in enumerate((share_u, share_v))
        ]
        rays = unproject(torch.stack([first, second, mean], dim=1), size).flatten(1)
        numbers = torch.stack([high, low, *spread, maps.sum((1, 2)).log1p()], dim=-1)
        tokens = torch.cat([rays, numbers], dim=-1).unflatten(0, heatmaps.shape[:3])
        return torch.cat([tokens, distances.float()], dim=-1) if self.distances else tokens

    @staticmethod
    def _peak(maps):
        places, values = decode_heatmaps(maps)
        return torch.where(places.isnan(), (maps.shape[-1] - 1) / 2, places), values


def turned(tokens: Tokens, turns: Float[Tensor, "B 3 3"]) -> Tokens:
    """Tokens as if the camera's frame were turned: each ray r becomes turn @ r."""
    rays = tokens[..., : 3 * RAYS].unflatten(-1, (RAYS, 3))
    rays = torch.einsum("bij,btnkj->btnki", turns, rays)
    return torch.cat([rays.flatten(-2), tokens[..., 3 * RAYS :]], dim=-1)


def mirrored(tokens: Tokens) -> Tokens:
    """Tokens as if the scene were seen in a mirror: x changes its sign, right and left joints change places."""
    flip = torch.diag(tokens.new_tensor([-1.0, 1.0, 1.0]))
    return turned(tokens[:, :, MIRRORED], flip.expand(len(tokens), 3, 3))


def mirrored_joints(joints: Joints) -> Joints:
    """Joints as `mirrored` changes their tokens."""
    return joints[:, :, MIRRORED] * joints.new_tensor([-1.0, 1.0, 1.0])


class Augmentation(nn.Module):
    """What a training window of tokens may be changed into, with its joints: other mounts, mirrors, limbs not seen.

    turn_degrees: standard deviation of a random turn of the camera about each axis, the same all through a window.
    hidden_share: of each joint's time, in stretches of HIDDEN frames, whose tokens say nothing. mirror: whether half of
    the windows change sides.
    """

    HIDDEN = 8

    def __init__(self, turn_degrees: float = 0.0, hidden_share: float = 0.0, mirror: bool = False):
        super().__init__()
        self.turn, self.hidden_share, self.mirror = math.radians(turn_degrees), hidden_share, mirror

    def forward(self, tokens: Tokens, joints: Joints) -> tuple[Tokens, Joints]:
        batch, frames, count, _ = tokens.shape
        options = {"dtype": tokens.dtype, "device": tokens.device}
        vector = self.turn * torch.randn(batch, 3, **options)
        x, y, z = vector.unbind(-1)
        zero = torch.zeros_like(x)
        cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
        turns = torch.linalg.matrix_exp(cross)
        if self.mirror:
            flip = (torch.rand(batch, device=tokens.device) < 0.5)[:, None, None, None]
            tokens = torch.where(flip, mirrored(tokens), tokens)
            joints = torch.where(flip, mirrored_joints(joints), joints)
        tokens = turned(tokens, turns)
        joints = torch.einsum("bij,btnj->btni", turns.to(joints.dtype), joints)
        if self.hidden_share:
            stretches = torch.rand(batch, frames // self.HIDDEN + 2, count, device=tokens.device) < self.hidden_share
            begin = int(torch.randint(self.HIDDEN, ()))
            hidden = stretches.repeat_interleave(self.HIDDEN, dim=1)[:, begin : begin + frames]
            tokens = torch.where(hidden[..., None], hidden_token(tokens), tokens)
        return tokens, joints


def hidden_token(like: Tokens) -> Float[Tensor, " token"]:
    """The token of a map that shows nothing: all rays those of the view's middle, all numbers zero."""
    middle = unproject(like.new_zeros(2), 1)
    return torch.cat([middle.repeat(RAYS), like.new_zeros(like.shape[-1] - 3 * RAYS)])


class _Attention(nn.Module):
    """Pre-norm attention of each token to `extra` tokens and all in its row."""

    def __init__(self, dim, heads, dropout):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, bias=None):
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropout)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class _Block(nn.Module):
    """Attention over the joints of each frame, over the frames of each joint (unless farthest is 0), and a
    feed-forward part."""

    def __init__(self, dim, heads, dropout, farthest):
        super().__init__()
        self.space = _Attention(dim, heads, dropout)
        self.farthest = farthest
        if farthest:
            self.time = _Attention(dim, heads, dropout)
            # How much each head heeds a frame so many frames away.
            self.distance = nn.Parameter(torch.zeros(heads, 2 * farthest + 1))
        self.forward_part = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(self, x, mask):
        batch, frames, tokens, _ = x.shape
        x = self.space(x.flatten(0, 1)).unflatten(0, (batch, frames))
        if not self.farthest:
            return x + self.forward_part(x)
        at = torch.arange(frames, device=x.device)
        apart = (at[None] - at[:, None]).clamp(-self.farthest, self.farthest) + self.farthest
        bias = self.distance[:, apart][None]
        if mask is not None:
            bias = bias.masked_fill(~mask[:, None, None, :], -torch.inf).repeat_interleave(tokens, dim=0)
        x = self.time(x.transpose(1, 2).flatten(0, 1), bias.to(x.dtype))
        x = x.unflatten(0, (batch, tokens)).transpose(1, 2)
        return x + self.forward_part(x)


def smoothed(
    joints: Float[Tensor, "B T J 3"], width: float, mask: Bool[Tensor, "B T"] | None = None
) -> Float[Tensor, "B T J 3"]:
    """Each joint on the line that fits its places near each frame best, weighted by a Gaussian of `width` frames.

    Local linear regression (Cleveland, 1979): in the middle of a window the Gaussian's mean, at its ends without
    the lag that a mean has there. Frames where the mask is False count for nothing.
    """
    at = torch.arange(joints.shape[1], dtype=joints.dtype, device=joints.device)
    apart = at[None] - at[:, None]
    near = torch.exp(-0.5 * (apart / width) ** 2)[None]
    if mask is not None:
        # What padding itself becomes is nobody's concern, as long as it is a number.
        near = torch.where(mask[:, :, None], near * mask[:, None], torch.eye(len(at), dtype=near.dtype).to(near.device))
    zeroth, first, second = ((near * apart**power).sum(-1, keepdim=True) for power in range(3))
    # One frame alone has no slope; the little that is added leaves it none.
    second = second + 1e-6 * zeroth
    weights = near * (second - first * apart) / (zeroth * second - first**2)
    return torch.einsum("bts,bsjc->btjc", weights.expand(len(joints), -1, -1), joints)


def between(joints: Float[Tensor, "B T J 3"], known: Bool[Tensor, "B T"]) -> Float[Tensor, "B T J 3"]:
    """Frames that are not known, linearly between the known ones next to them; before the first and after the last as
    those. A window without any known frame stays as it is."""
    at = torch.arange(joints.shape[1], device=joints.device)
    last = torch.where(known, at, -1).cummax(1).values
    following = torch.where(known, at, len(at)).flip(1).cummin(1).values.flip(1)
    before = torch.where(last < 0, following, last)
    after = torch.where(following == len(at), last, following)
    share = (at - before) / (after - before).clamp_min(1)

    def frames(index):
        return joints.gather(1, index.clamp(0, len(at) - 1)[:, :, None, None].expand_as(joints))

    filled = torch.lerp(frames(before), frames(after), share.to(joints.dtype)[:, :, None, None])
    return torch.where((known | ~known.any(1, keepdim=True))[:, :, None, None], joints, filled)


class RayDecoder(nn.Module):
    """Tokens of `RayTokens`, and motion F_m where it is used -> 3D joints, metres, camera frame.

    A joint is a mix, by a learned share, of a point on its ray and of a place found without it. The distance along the
    ray is the joint's mean distance times a factor; the other place is its mean place and an offset.
    output_mean: the training split's mean pose, metres. use_motion: whether each frame has a token of the motion
    stream beside its joints'. train_length: frames of the windows that it is trained on, 0: of whole ones; frames
    further apart than it often sees there count as equally far; 1: it has no attention over time. stature: of the
    wearer: "none" where it is not asked for, "estimated" where the decoder estimates it, the same for a whole window,
    unless it is told, "given" where it must be told. smoothing: the width of `smoothed`, through which all joints go,
    in the window's frames; 0: none. min_peak: frames of which no map reaches this value, such as dark ones, are not
    attended to, and their joints lie `between` those of others; 0: none.
    distances: whether tokens end with one. flip_test: whether poses are, outside of training, the means of those of the
    tokens and of their mirror image, turned back (motion features have none: ValueError). temporal: that it reads whole
    windows of tokens, so that live prediction must keep them.
    """

    temporal = True
    use_spatial, use_cross_attention = True, False

    def __init__(
        self,
        output_mean: Float[np.ndarray | Tensor, "15 3"],
        dim: int = 128,
        motion_dim: int = 384,
        layers: int = 4,
        heads: int = 4,
        dropout: float = 0.0,
        use_motion: bool = True,
        smoothing: float = 0.0,
        min_peak: float = 0.0,
        train_length: int = 0,
        stature: str = "none",
        distances: bool = False,
        flip_test: bool = False,
    ):
        super().__init__()
        if flip_test and use_motion:
            raise ValueError("flip_test with use_motion: the motion stream's features have no mirror image")
        self.stature, self.flip_test = stature, flip_test
        self.use_motion, self.smoothing, self.min_peak = use_motion, smoothing, min_peak
        mean = torch.as_tensor(output_mean).float()
        self.register_buffer("output_mean", mean)
        self.read = nn.Sequential(nn.Linear(TOKEN + distances, dim), nn.GELU(), nn.Linear(dim, dim))
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(NUM_JOINTS, dim))
        if use_motion:
            self.motion_projection = nn.Linear(motion_dim, dim)
        farthest = {0: FARTHEST, 1: 0}.get(train_length, 3 * train_length // 4)
        self.blocks = nn.ModuleList(_Block(dim, heads, dropout, farthest) for _ in range(layers))
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 5))
        # It starts half-way between the mean pose and each ray at the mean distance.
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)
        if stature == "estimated":
            self.estimate = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))
            nn.init.zeros_(self.estimate[-1].weight)
            nn.init.zeros_(self.estimate[-1].bias)

    def forward(
        self,
        tokens: Tokens,
        motion: Float[Tensor, "B T motion_dim"] | None = None,
        mask: Bool[Tensor, "B T"] | None = None,
        stature: Float[Tensor, " B"] | None = None,
    ) -> Joints:
        """The mask is False where a frame is padding; stature: m, NaN where it is not known.

        Raises ValueError where the motion in use, or a stature that must be given, is missing.
        """
        if self.use_motion and motion is None:
            raise ValueError("use_motion is on, but motion is None")
        if self.min_peak:
            known = tokens[..., 3 * RAYS].amax(-1) >= self.min_peak
            known = known if mask is None else known & mask
            # Where nothing is seen at all, all frames are as good.
            whole = torch.ones_like(known) if mask is None else mask
            mask = torch.where(known.any(1, keepdim=True), known, whole)
        joints = self._joints(tokens, motion, mask, stature)
        if self.flip_test and not self.training:
            other = self._joints(mirrored(tokens), motion, mask, stature)
            joints = (joints + mirrored_joints(other)) / 2
        joints = smoothed(joints, self.smoothing, mask) if self.smoothing else joints
        return between(joints, mask) if self.min_peak else joints

    def _joints(self, tokens, motion, mask, stature):
        """Joints before they go through any filter."""
        x = self.read(tokens) + self.joint_embedding
        if self.use_motion:
            x = torch.cat([x, self.motion_projection(motion)[:, :, None]], dim=2)
        for block in self.blocks:
            x = block(x, mask)
        factor, share, *offset = self.head(x[:, :, :NUM_JOINTS]).float().unbind(-1)
        distance = torch.linalg.vector_norm(self.output_mean, dim=-1) * factor.clamp(-2, 2).exp()
        on_ray = tokens[..., :3].float() * distance[..., None]
        free = self.output_mean + torch.stack(offset, dim=-1)
        share = share.sigmoid()[..., None]
        joints = share * on_ray + (1 - share) * free
        if self.stature != "none":
            joints = resized(joints, self._stature(x[:, :, :NUM_JOINTS], mask, stature))
        return joints

    def _stature(self, x, mask, told):
        """m, (B,): as told, and where it is not, estimated from the joints' features (B, T, J, dim) of the window."""
        if self.stature == "given":
            return known(told)
        each = self.estimate(x.mean(2)).float()[..., 0]
        weights = torch.ones_like(each) if mask is None else mask.to(each.dtype)
        mean = (each * weights).sum(1) / weights.sum(1).clamp_min(1)
        estimated = AVERAGE * mean.clamp(-1, 1).exp()
        return estimated if told is None else torch.where(told.isnan(), estimated, told.to(estimated.dtype))
