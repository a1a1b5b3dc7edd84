"""What a model makes of the wearer's stature: against meshes, scaled scenes and labels."""

import numpy as np
import pytest
import torch
from conftest import MOTION
from test_predict import trained, write_folder  # noqa: F401

from agego_lib.evaluation import predict_split
from agego_lib.inference import LivePredictor, PoseStream, predict_sequence
from agego_lib.models import AGEgoPose, HeatmapNet, PoseDecoder, RayDecoder, RayTokens
from agego_lib.params import LossSettings, WindowSettings
from agego_lib.skeleton import BONES
from agego_lib.stature import AVERAGE, BONES_OF_STATURE, stature
from agego_lib.training import PoseObjective
from agego_video import predict
from agego_video.live import Live
from agego_video.video import VideoError

pytestmark = pytest.mark.usefixtures("one_thread")
MEAN = torch.randn(15, 3, generator=torch.Generator().manual_seed(0)) * 0.3 + torch.tensor([0.0, 0.3, 0.8])


def rays(mode, **options):
    torch.manual_seed(0)
    made = RayDecoder(MEAN, dim=32, layers=1, heads=2, use_motion=False, stature=mode, **options).eval()
    generator = torch.Generator().manual_seed(2)
    torch.nn.init.normal_(made.head[-1].weight, std=0.1, generator=generator)
    if mode == "estimated":
        torch.nn.init.normal_(made.estimate[-1].weight, std=0.1)
    return made


def model_of(mode):
    torch.manual_seed(0)
    net = HeatmapNet(fpn_channels=(8, 8, 8, 8), output_bias=0.0)
    off = {"use_motion": False, "use_cross_attention": False}
    return AGEgoPose(net, embedding=RayTokens(), decoder=rays(mode), **off).eval()


def tokens(frames=5, batch=3):
    return torch.randn(batch, frames, 15, 14, generator=torch.Generator().manual_seed(1))


def test_the_ratio_is_that_of_the_bodies(people):
    """From their meshes, upright: stature is what a tape measures, bones are those of a loop."""
    still = np.zeros((1, 21, 4))
    still[..., 0] = 1
    ratios = []
    for body in people:
        starts, turns = body.pose(np.zeros((1, 3)), still)
        tall = np.ptp(body.skin(starts[0], turns[0])[:, 2])
        joints = body.joints(starts)[0]
        bones = sum(np.linalg.norm(joints[child] - joints[parent]) for parent, child in BONES)
        assert stature(joints) == pytest.approx(bones / BONES_OF_STATURE)
        assert stature(torch.from_numpy(joints)).item() == pytest.approx(stature(joints))
        assert stature(joints) == pytest.approx(tall, rel=0.04)
        ratios.append(bones / tall)
    assert np.mean(ratios) == pytest.approx(BONES_OF_STATURE, abs=5e-4)
    assert np.std(ratios) / np.mean(ratios) == pytest.approx(0.011, abs=5e-4)


@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_who_is_twice_as_tall_is_twice_as_far(smoothing):
    with torch.no_grad():
        for mode in ("estimated", "given"):
            made = rays(mode, smoothing=smoothing)
            one = made(tokens(), stature=torch.tensor([AVERAGE, 1.6, 1.6]))
            other = made(tokens(), stature=torch.tensor([AVERAGE, 3.2, 0.8]))
            torch.testing.assert_close(other / one, torch.tensor([1.0, 2, 0.5])[:, None, None, None].expand_as(one))
            torch.testing.assert_close(one[0], rays("none", smoothing=smoothing)(tokens())[0])


def test_who_is_not_told_is_estimated_from_the_whole_window():
    """One factor for all frames and joints, of which the loss on joints teaches; padding has no say in it."""
    made, plain = rays("estimated"), rays("none")
    with torch.no_grad():
        factors = made(tokens()) / plain(tokens())
        each = factors[:, :1, :1, :1]
        torch.testing.assert_close(factors, each.expand_as(factors), rtol=1e-4, atol=1e-5)
        assert each.std() > 1e-3
        partly = made(tokens(), stature=torch.tensor([1.5, np.nan, np.nan]))
        torch.testing.assert_close(partly[1:], made(tokens())[1:])
        torch.testing.assert_close(partly[0], plain(tokens())[0] * 1.5 / AVERAGE)
        mask = torch.arange(5)[None].expand(3, 5) < 4
        padded = torch.where(mask[..., None, None], tokens(), 7.0)
        torch.testing.assert_close(made(padded, mask=mask)[:, :4], made(tokens()[:, :4])[:, :4])
    made(tokens()).sum().backward()
    assert made.estimate[-1].weight.grad.abs().sum() > 0


def test_the_papers_decoder_can_be_told_too():
    torch.manual_seed(0)
    options = {"dim": 16, "motion_dim": MOTION, "layers": 1, "heads": 2, "output_mean": MEAN, "use_motion": False}
    told = PoseDecoder(**options, stature="given").eval()
    plain = PoseDecoder(**options).eval()
    plain.load_state_dict(told.state_dict())
    memory = torch.randn(2, 4, 15, 16)
    with torch.no_grad():
        found = told(memory, None, torch.tensor([AVERAGE, 2 * AVERAGE]))
        torch.testing.assert_close(found, plain(memory, None) * torch.tensor([1.0, 2])[:, None, None, None])
        with pytest.raises(ValueError, match="the wearer's stature is not"):
            told(memory, None)
        with pytest.raises(ValueError, match="the wearer's stature is not"):
            rays("given")(tokens(), stature=torch.tensor([1.7, np.nan, 1.7]))


def test_training_tells_what_labels_say(monkeypatch):
    target = MEAN * torch.linspace(0.8, 1.2, 400)[:, None, None, None].expand(-1, 3, 1, 1)
    mask = torch.ones(400, 3, dtype=torch.bool)
    mask[::2, 2] = False
    target = torch.where(mask[..., None, None], target, torch.nan)  # as padding may be
    wanted = target[:, 0].double().numpy()
    bones = sum(np.linalg.norm(wanted[:, child] - wanted[:, parent], axis=-1) for parent, child in BONES)
    seen = []
    for mode in ("none", "given", "estimated"):
        model = model_of(mode)
        monkeypatch.setattr(model, "streams", lambda **_: (tokens(3, 400), None))
        decode = model.decode
        monkeypatch.setattr(model, "decode", lambda *a, decode=decode: seen.append(a[3]) or decode(*a))
        objective = PoseObjective(model, LossSettings(1.0, 0.1, 0.01, 0.0))
        for training in (True, False):
            loss, _ = objective.train(training)({"mask": mask, "joints_3d": target, "heatmaps": None})
            assert loss.isfinite()
    assert seen[0] is seen[1] is None
    for told in seen[2:4]:
        np.testing.assert_allclose(told, bones / BONES_OF_STATURE, rtol=1e-5)
    known = ~seen[4].isnan()
    assert 150 < known.sum() < 250 and seen[5].isnan().all()
    np.testing.assert_allclose(seen[4][known], bones[known.numpy()] / BONES_OF_STATURE, rtol=1e-5)


def test_prediction_tells_it_to_every_window(make_sequence):
    model, frames = model_of("given"), np.random.default_rng(0).integers(0, 255, (7, 32, 32, 3), np.uint8)
    average = predict_sequence(model, frames, length=4, stride=2, stature=AVERAGE)
    np.testing.assert_allclose(
        predict_sequence(model, frames, length=4, stride=2, stature=2.1), 1.2 * average, rtol=1e-5
    )
    stream = PoseStream(model, 4, 2, chunk=3, stature=2.1)
    poses = [pose for frame in frames for pose in stream.push(frame)] + [*stream.finish()]
    np.testing.assert_allclose(np.stack(poses), 1.2 * average, rtol=1e-4, atol=1e-5)
    small, tall = (LivePredictor(model, 4, stature=s) for s in (AVERAGE, 2.1))
    np.testing.assert_allclose(tall.push(frames[0]), 1.2 * small.push(frames[0]), rtol=1e-5)


def test_a_split_is_tested_with_its_peoples_own(monkeypatch):
    class Sequence:
        frame_numbers = np.arange(5)
        joints_3d = MEAN.numpy() * np.array([1.0, 1.1, 1.1, 1.1, 3.0], np.float32)[:, None, None]

        def __len__(self):
            return 5

        def images(self, indices):
            return np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)[indices]

    sequence, window = Sequence(), WindowSettings(length=4, stride=2, step=1, max_gap=3)
    own = 1.1 * float(stature(MEAN))
    cases = [("given", False, own), ("estimated", False, None), ("estimated", True, own), ("none", False, None)]
    for mode, tell, told in cases:
        model = model_of(mode)
        (found,) = predict_split(model, [sequence], window, told=tell)
        images = sequence.images(np.arange(5))
        np.testing.assert_allclose(found, predict_sequence(model, images, length=4, stride=2, stature=told), rtol=1e-4)


def test_the_command_takes_it(trained, tmp_path, capsys):  # noqa: F811
    """A model that is told; what cannot be used, nobody is as tall as, or is missing, is an error in a line."""
    folder = write_folder(tmp_path / "frames", range(5))
    ask = [str(folder), "--overlay", "none", "--out", str(tmp_path / "out")]
    ask += ["--calibration", str(trained["calibration"])]
    assert predict.main([*ask, "--model", str(trained["model"]), "--stature", "1.8"]) == 1
    assert "was trained without any (decoder.stature is none)" in capsys.readouterr().err
    text = trained["model"].with_suffix(".json").read_text()
    told = tmp_path / "told.safetensors"
    told.write_bytes(trained["model"].read_bytes())
    told.with_suffix(".json").write_text(text.replace('"layers": 1', '"layers": 1, "stature": "given"', 1))
    ask += ["--model", str(told)]
    assert predict.main(ask) == 1
    assert "must be told how tall the wearer is; tell it: --stature 1.75" in capsys.readouterr().err
    assert predict.main([*ask, "--stature", "178"]) == 1
    assert "--stature 178; expected metres, 0.5 to 2.6" in capsys.readouterr().err
    poses = []
    for tall in ("1.5", "1.8"):
        assert predict.main([*ask, "--stature", tall]) == 0
        poses.append(np.load(tmp_path / "out/joints.npz")["joints_3d"])
    np.testing.assert_allclose(poses[1], 1.2 * poses[0], rtol=1e-4, atol=1e-6)
    with Live(folder, told, trained["calibration"], every_frame=True, stature=1.8) as live:
        assert len(list(live)) == 5
    with pytest.raises(VideoError, match="must be told"):
        Live(folder, told, trained["calibration"])
