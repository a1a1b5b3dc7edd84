"""What the camera of the embedded data does to a picture: exposure, vignetting, haze, blur, noise, JPEG.

All is drawn anew for every sequence.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Optics:
    """One sequence's lens, sensor and codec.

    aim: mean brightness that the exposure goes for, 0 to 255; contrast: exponent; colours: matrix (3, 3) of white
    balance and saturation, BGR; mask: the lens's light, grey: what is added where the lens gives none and, as haze,
    where it does, (H, W, 3) uint8; glare: light thrown by a lamp and the azimuth that it comes from, or None; blur:
    sigma px; sharpen: strength of the halo; shutter: share of the time between two frames; fringe: how much larger red
    is drawn than the rest; noise: its brighter and darker part, 64 px larger than the full picture; quality: of the
    JPEG; border: grey beside the narrower picture.
    """

    aim: float
    contrast: float
    colours: np.ndarray
    mask: np.ndarray
    grey: np.ndarray
    glare: tuple
    blur: float
    sharpen: float
    shutter: float
    fringe: float
    noise: tuple
    quality: int
    border: int

    @classmethod
    def random(cls, rng, viewer):
        """For the pictures of a Viewer."""
        share, (height, width) = viewer.share, viewer.share.shape
        scale = height / 1024
        # The edge, from sharp to one that takes a sixth of the radius; it begins where the calibration has the circle.
        soft, rim = rng.choice([0.03, 0.07, 0.13]) * rng.uniform(0.6, 1.2), rng.uniform(0.985, 1.0)
        edge = np.clip((rim - share) / soft, 0, 1)
        edge = edge * edge * (3 - 2 * edge)
        light = edge * (1 - rng.uniform(0.0, 0.5) * np.minimum(share, 1) ** rng.uniform(1.5, 4))
        border, haze = int(rng.choice([0, 22, rng.uniform(0, 40)])), rng.choice([0.0, 4.0, rng.uniform(0, 25)])
        tint = rng.normal(1, 0.03, 3)
        grey = ((1 - edge) * border)[..., None] * np.ones(3) + (edge * haze)[..., None] * tint
        glare = None
        if rng.random() < 0.25:
            rows, columns = np.mgrid[:height, :width] / height
            angle = rng.uniform(0, 2 * np.pi)
            (x, y), wide = 0.5 + rng.uniform(0.2, 0.5) * np.array([np.cos(angle), np.sin(angle)]), rng.uniform(0.1, 0.5)
            spot = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * wide**2)) * np.minimum(edge * 2, 1)
            colour = rng.uniform(20, 110) * rng.normal(1, 0.1, 3)
            glare = (spot[..., None] * colour).clip(0, 255).astype(np.uint8), angle
        spread, coarse = rng.choice([0.6, 2.0, 5.0]) * rng.uniform(0.6, 1.5), rng.uniform(0, 0.8)
        size = height + 64, viewer.full.size[0] + 64
        noise = rng.standard_normal((*size, 3), dtype=np.float32)
        if coarse > 0.35:
            noise = cv2.GaussianBlur(noise, (0, 0), coarse) * (3.5 * coarse)
        noise += rng.uniform(0, 1) * noise[..., :1]
        noise = noise * np.float32(spread) + np.float32(0.5)
        full = rng.uniform(0.45, 1.1)
        return cls(
            aim=rng.uniform(55, 155),
            contrast=rng.uniform(0.8, 1.4),
            colours=(full * np.eye(3) + (1 - full) / 3) * rng.normal(1, 0.05, 3).clip(0.85, 1.15)[:, None],
            mask=np.repeat(np.round(255 * light).astype(np.uint8)[..., None], 3, axis=2),
            grey=grey.clip(0, 255).round().astype(np.uint8),
            glare=glare,
            blur=rng.choice([0.4, 0.6, 0.8, 1.2]) * rng.uniform(0.8, 1.2) * max(1.0, scale / 0.375),
            sharpen=rng.choice([0.0, 0.0, 0.6, 1.2]) * rng.uniform(0.6, 1.2),
            shutter=rng.choice([0.0, 0.15, 0.5]),
            fringe=rng.choice([0.0, 0.0, 0.0, 0.004]) * rng.uniform(-1, 1),
            noise=tuple(np.clip(part, 0, 255).astype(np.uint8) for part in (noise, -noise)),
            quality=int(rng.integers(60, 96)),
            border=border,
        )

    def curve(self, image):
        """Exposure and contrast fit for a first picture, as a table of 256 values."""
        mean = cv2.mean(image, (self.mask[..., 0] > 128).astype(np.uint8))
        gain = np.clip(self.aim / max(np.mean(mean[:3]), 1.0), 0.45, 2.2)
        values = np.arange(256) / 255 * gain
        # Bends about a middle grey, and rolls off before white.
        values = 0.4 * (values / 0.4) ** self.contrast
        values = np.where(values > 0.7, 0.7 + 0.32 * np.tanh((values - 0.7) / 0.4), values)
        return (255 * values).clip(0, 255).round().astype(np.uint8)

    def smeared(self, image, kept, move):
        """Motion blur by `move` px (2,) between two frames of all but the pixels `kept` (H, W) bool, the wearer's."""
        move = np.asarray(move) * self.shutter
        length = np.hypot(*move)
        if not 1.0 < length:
            return image
        move = move * min(1.0, 7.0 / length)
        kernel = np.zeros((9, 9), np.float32)
        for at in np.linspace(-0.5, 0.5, 15):
            x, y = np.round(4 + move * at).astype(int)
            kernel[y, x] += 1 / 15
        blurred = cv2.filter2D(image, -1, kernel)
        cv2.copyTo(image, kept.astype(np.uint8), blurred)
        return blurred

    def finish(self, image, curve, turn, viewer, rng, light=1.0):
        """From what is drawn to what the camera gives -> BGR image of the full size. turn: camera to world (3, 3);
        light: share that is left of the light, to which the exposure is not fitted again.
        """
        if self.blur > 0:
            image = cv2.GaussianBlur(image, (5, 5), self.blur)
        if self.sharpen > 0:
            image = cv2.addWeighted(image, 1 + self.sharpen, cv2.GaussianBlur(image, (5, 5), 1.2), -self.sharpen, 0)
        if self.fringe:
            red = np.array([[1 + self.fringe, 0, 0], [0, 1 + self.fringe, 0]])
            red[:, 2] = -self.fringe * np.array(viewer.camera.centre)
            channels = [*cv2.split(image)]
            channels[2] = cv2.warpAffine(channels[2], red, channels[2].shape[::-1], borderMode=cv2.BORDER_REPLICATE)
            image = cv2.merge(channels)
        if self.glare is not None:
            spot, angle = self.glare
            strength = 0.5 + 0.5 * np.cos(np.arctan2(turn[1, 1], turn[0, 1]) - angle)
            image = cv2.addWeighted(image, 1.0, spot, strength, 0)
        if light < 1:
            image = cv2.convertScaleAbs(image, alpha=light)
        image = cv2.LUT(cv2.transform(image, self.colours), curve)
        image = cv2.add(cv2.multiply(image, self.mask, scale=1 / 255), self.grey)
        right = viewer.full.size[0] - viewer.left - image.shape[1]
        border = [self.border] * 3
        image = cv2.copyMakeBorder(image, 0, 0, viewer.left, right, cv2.BORDER_CONSTANT, value=border)
        x, y = rng.integers(0, 64, 2)
        height, width = image.shape[:2]
        brighter, darker = (part[y : y + height, x : x + width] for part in self.noise)
        return cv2.subtract(cv2.add(image, brighter), darker)
