"""The 3D pose decoder (Sec. 3.3) and the whole model (Fig. 1)."""

from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from agego_lib.stature import known, resized

from .backbone import Image
from .heatmap import HeatmapNet
from .motion import FrameEncoder, Mask, MotionEncoder
from .spatial import HeatmapEmbedding

Tokens = Float[Tensor, "B T J dim"]
Motion = Float[Tensor, "B T motion_dim"]
Joints = Float[Tensor, "B T J 3"]


class PoseDecoder(nn.Module):
    """Joint tokens H_e and motion F_m -> 3D joints, in metres.

    norm_first: pre-norm instead of post-norm layers.
    memory_joint_embedding: adds a learned (J, dim) to the memory. Without it nothing but the heatmaps' content tells
        the decoder which joint a memory token belongs to.
    use_spatial, use_motion: which streams make the memory; use_cross_attention: whether the decoder reads it, or it
        goes to the pose head as it is (Tables 4 and 5). Motion alone gives every joint the same memory, so that
        without cross-attention and memory_joint_embedding every joint gets the same offset from output_mean.
    head_hidden: widths of the pose head's hidden layers.
    output_mean: pose added to the head's output, for example the training split's mean; zeros when None.
    stature: "given" where it is told the wearer's, and answers for a person of average stature, who is resized.
    temporal: that each frame is decoded by itself.
    Raises ValueError when no stream is used.
    """

    temporal = False

    def __init__(
        self,
        dim: int = 128,
        motion_dim: int = 384,
        layers: int = 3,
        heads: int = 4,
        num_joints: int = 15,
        dropout: float = 0.1,
        norm_first: bool = False,
        memory_joint_embedding: bool = False,
        use_spatial: bool = True,
        use_motion: bool = True,
        use_cross_attention: bool = True,
        head_hidden: tuple[int, ...] = (128, 64),
        output_mean: Float[np.ndarray | Tensor, "J 3"] | None = None,
        stature: str = "none",
    ):
        super().__init__()
        self.stature = stature
        if not (use_spatial or use_motion):
            raise ValueError("use_spatial and use_motion are both off: the decoder has nothing to read")
        self.dim, self.num_joints = dim, num_joints
        self.use_spatial, self.use_motion, self.use_cross_attention = use_spatial, use_motion, use_cross_attention

        # Eq. 4: the first linear layer is W_c, the rest is phi.
        if use_motion:
            self.motion_projection = nn.Linear(motion_dim, dim)
        self.memory = nn.Sequential(
            nn.Linear(dim * (use_spatial + use_motion), dim), nn.ReLU(inplace=True), nn.Linear(dim, dim)
        )
        self.joint_embedding = nn.Parameter(0.02 * torch.randn(num_joints, dim)) if memory_joint_embedding else None

        # Eq. 5.
        if use_cross_attention:
            self.queries = nn.Parameter(0.02 * torch.randn(num_joints, dim))
            layer = nn.TransformerDecoderLayer(
                dim, heads, 4 * dim, dropout=dropout, batch_first=True, norm_first=norm_first
            )
            # Pre-norm layers leave their sum without a norm, so that the stack needs one at its end.
            self.decoder = nn.TransformerDecoder(layer, layers, norm=nn.LayerNorm(dim) if norm_first else None)

        # Eq. 6.
        widths = (dim, *head_hidden)
        hidden = [
            module
            for width_in, width_out in pairwise(widths)
            for module in (nn.Linear(width_in, width_out), nn.LeakyReLU(0.1), nn.Dropout(dropout))
        ]
        self.head = nn.Sequential(*hidden, nn.Linear(widths[-1], 3))
        mean = torch.zeros(num_joints, 3) if output_mean is None else torch.as_tensor(output_mean).float()
        if mean.shape != (num_joints, 3):
            raise ValueError(f"output_mean is {tuple(mean.shape)}, expected ({num_joints}, 3)")
        self.register_buffer("output_mean", mean.clone())

    def build_memory(self, spatial_tokens: Tokens | None, motion: Motion | None) -> Tokens:
        """Eq. 4: the memory M. The tokens of a stream that is off are ignored."""
        parts = []
        if self.use_spatial:
            parts.append(spatial_tokens)
        if self.use_motion:
            parts.append(self.motion_projection(motion).unsqueeze(2).expand(-1, -1, self.num_joints, -1))
        memory = self.memory(torch.cat(parts, dim=-1))
        return memory if self.joint_embedding is None else memory + self.joint_embedding

    def forward(
        self, spatial_tokens: Tokens | None, motion: Motion | None, stature: Float[Tensor, " B"] | None = None
    ) -> Joints:
        """Raises ValueError when the tokens of a stream in use, or a stature that must be given, are missing."""
        if self.use_spatial and spatial_tokens is None:
            raise ValueError("use_spatial is on, but spatial_tokens is None")
        if self.use_motion and motion is None:
            raise ValueError("use_motion is on, but motion is None")
        x = self.build_memory(spatial_tokens, motion)
        if self.use_cross_attention:
            memory = x.flatten(0, 1)
            queries = self.queries.expand(len(memory), -1, -1)
            x = self.decoder(queries, memory).unflatten(0, x.shape[:2])
        joints = self.head(x) + self.output_mean
        return resized(joints, known(stature)) if self.stature == "given" else joints


class AGEgoPose(nn.Module):
    """The whole model: images, ImageNet-normalised -> 3D joints, in metres.

    The heatmap network, the trunk of the frame encoder and the motion encoder are frozen here, whatever they were
    before, and stay in eval mode after `.train()`. The rest trains: see `trainable_parameters`.

    Parts that are not given are built with their defaults, untrained. A stream that is switched off has no parts:
    those given for it are left out. A given decoder must have been built with the same switches.
    Raises ValueError when parts do not fit each other.
    """

    def __init__(
        self,
        heatmap_net: HeatmapNet | None = None,
        frame_encoder: FrameEncoder | None = None,
        motion_encoder: MotionEncoder | None = None,
        embedding: HeatmapEmbedding | None = None,
        decoder: PoseDecoder | None = None,
        *,
        use_spatial: bool = True,
        use_motion: bool = True,
        use_cross_attention: bool = True,
    ):
        super().__init__()
        self._shared = None
        switches = {"use_spatial": use_spatial, "use_motion": use_motion, "use_cross_attention": use_cross_attention}
        self.use_spatial, self.use_motion, self.use_cross_attention = switches.values()
        if use_motion:
            self.frame_encoder = frame_encoder or FrameEncoder()
            self.motion_encoder = (motion_encoder or MotionEncoder(dim=self.frame_encoder.dim)).freeze()
            if self.frame_encoder.dim != self.motion_encoder.dim:
                raise ValueError(
                    f"the frame encoder gives {self.frame_encoder.dim} channels, "
                    f"the motion encoder takes {self.motion_encoder.dim}"
                )
        if use_spatial:
            self.heatmap_net = (heatmap_net or HeatmapNet()).freeze()
            self.embedding = embedding or HeatmapEmbedding()
        if decoder is None:
            motion_dim = self.motion_encoder.dim if use_motion else 384
            decoder = PoseDecoder(motion_dim=motion_dim, **switches)
        self.decoder = decoder
        self.stature = decoder.stature  # whether the wearer's is asked for
        for name, value in switches.items():
            if getattr(decoder, name) != value:
                raise ValueError(f"{name} is {value}, but the decoder was built with {getattr(decoder, name)}")

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters to optimise, as a list."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def own_parameters(self) -> list[nn.Parameter]:
        """Those beside `frozen_features`: what trains, and the motion encoder."""
        shared = [self.heatmap_net] if self.use_spatial else []
        shared += [*self.frame_encoder.frozen_modules()] if self.use_motion else []
        left_out = {id(parameter) for part in shared for parameter in part.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in left_out]

    def shares_trunk(self) -> bool:
        """Whether the frame encoder's trunk equals the heatmap encoder's, so that one pass serves both."""
        if not (self.use_spatial and self.use_motion) or self.frame_encoder.backbone != "resnet18":
            return False
        ours, theirs = (m.encoder.state_dict(keep_vars=True) for m in (self.frame_encoder, self.heatmap_net))
        trunk = [key for key in ours if not key.startswith("layer4.") and not key.endswith("num_batches_tracked")]
        # Compared anew only where a tensor was exchanged or written to: it would cost as much as a layer each time.
        tensors = [side[key] for side in (ours, theirs) for key in trunk]
        state = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
        if self._shared is None or self._shared[0] != state:
            self._shared = state, all(torch.equal(ours[key], theirs[key]) for key in trunk)
        return self._shared[1]

    @torch.no_grad()
    def frozen_features(self, images: Image) -> dict[str, Float[Tensor, "N _ _ _"]]:
        """What the frozen networks see in images, the same in training and evaluation.

        Returns a dict with `heatmaps` (N, J, H/4, W/4), sigmoid of the logits, `trunk` (N, C, H/16, W/16), and, where
        the heatmap network gives them, `distances` (N, J, 1, 1), log m (see `HeatmapNet.decode_all`).
        A stream that is off has no entry. Cached, they can be given to `forward_features`, epoch after epoch.
        """
        features, stages = {}, None
        # As `images.to_tensor` gives them; convolutions are a fifth faster so on a CPU.
        images = images.contiguous(memory_format=torch.channels_last)
        if self.use_spatial:
            stages = self.heatmap_net.encode(images)
            logits, distances = self.heatmap_net.decode_all(stages)
            features["heatmaps"] = logits.sigmoid()
            if distances is not None:
                features["distances"] = distances[..., None, None]
        if self.use_motion:
            features["trunk"] = stages[2] if self.shares_trunk() else self.frame_encoder.trunk(images)
        return features

    def forward_features(
        self,
        heatmaps: Float[Tensor, "B T J h w"] | None = None,
        trunk: Float[Tensor, "B T C16 h16 w16"] | None = None,
        mask: Mask = None,
        distances: Float[Tensor, "B T J 1 1"] | None = None,
    ) -> Joints:
        """Frozen features of windows -> joints; the mask is False where a frame is padding.

        Features stored in half precision are raised to the model's. Poses of padded frames mean nothing.
        """
        return self.decode(*self.streams(heatmaps, trunk, mask, distances), mask)

    def streams(
        self,
        heatmaps: Float[Tensor, "B T J h w"] | None = None,
        trunk: Float[Tensor, "B T C16 h16 w16"] | None = None,
        mask: Mask = None,
        distances: Float[Tensor, "B T J 1 1"] | None = None,
    ) -> tuple[Tokens | None, Motion | None]:
        """What the two streams make of frozen features: joint tokens and motion, None for a stream that is off."""
        dtype = self.decoder.output_mean.dtype
        tokens = motion = None
        if self.use_spatial:
            if heatmaps is None:
                raise ValueError("use_spatial is on, but heatmaps is None")
            tokens = self.tokens(heatmaps.to(dtype), distances)
        if self.use_motion:
            if trunk is None:
                raise ValueError("use_motion is on, but trunk is None")
            motion = self.motion_encoder(self.frame_encoder.head(trunk.to(dtype), mask), mask)
        return tokens, motion

    def tokens(
        self, heatmaps: Float[Tensor, "B T J h w"], distances: Float[Tensor, "B T J 1 1"] | None = None
    ) -> Tokens:
        """Joint tokens of windows. Raises ValueError where distances are read and not given."""
        if not self.embedding.distances:
            return self.embedding(heatmaps)
        if distances is None:
            raise ValueError("decoder.distances is on, but distances is None")
        return self.embedding(heatmaps, distances.to(heatmaps.dtype)[..., 0])

    def decode(
        self,
        tokens: Tokens | None,
        motion: Motion | None,
        mask: Mask = None,
        stature: Float[Tensor, " B"] | None = None,
    ) -> Joints:
        """Both streams of windows -> joints. A decoder that looks at one frame at a time needs no mask.

        stature: of the wearers, m, NaN where it is not known; see `decoder.stature`.
        """
        if self.decoder.temporal:
            return self.decoder(tokens, motion, mask, stature)
        return self.decoder(tokens, motion, stature)

    def forward(self, images: Float[Tensor, "B T 3 H W"], mask: Mask = None) -> Joints:
        """Windows of images -> joints; the mask is False where a frame is padding."""
        features = self.frozen_features(images.flatten(0, 1))
        features = {name: value.unflatten(0, images.shape[:2]) for name, value in features.items()}
        return self.forward_features(**features, mask=mask)
