"""What each baseline is built of, against loops, closed forms, SciPy and the NumPy camera."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from agego_lib.baselines import METHODS, cost, new_baseline, sample_errors
from agego_lib.baselines.egohmr import STEPS, ddim, noised, signal_shares
from agego_lib.baselines.egoposeformer import EgoPoseFormer, Sampling
from agego_lib.baselines.egotap import EgoTAP
from agego_lib.baselines.egowholemocap import soft_argmax
from agego_lib.baselines.harness import FrameFeatures
from agego_lib.baselines.kolotouros import Kolotouros, additive_flow
from agego_lib.baselines.lens import TERMS, lens_of, project, unproject
from agego_lib.baselines.sceneego import SURFACE, SceneEgo, usual_depth
from agego_lib.baselines.selfpose import forward_kinematics, rotations
from agego_lib.camera import InputView
from agego_lib.models import LimbEmbedding
from agego_lib.params import AblationSettings
from agego_lib.skeleton import BONES, PARENTS

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(params=["none", "square", "fovea"])
def seen(request, project_camera):
    """(sequence that has just a camera and a view, its lens as a batch of two, points that it sees)."""
    camera = project_camera
    sequence = SimpleNamespace(camera=camera, view=InputView.of(camera, 96, request.param), path="here.h5")
    lens = lens_of(sequence)
    rng = np.random.default_rng(0)
    pixels = np.add(camera.centre, rng.uniform(-0.6, 0.6, (2, 40, 2)) * camera.radius)
    points = camera.unproject(pixels, rng.uniform(0.2, 2.0, (2, 40)))
    return sequence, None if lens is None else torch.from_numpy(lens).expand(2, -1), points


@pytest.fixture
def project_camera():
    from conftest import CAMERA

    # As large as real frames are, where high powers of pixels are large too.
    return replace(CAMERA.scaled(8.0), radius=500.0)


def places(sequence, points):
    """Where NumPy's camera and view see points, as shares of the view's side."""
    return (sequence.view.to_view(sequence.camera.project(points)) + 0.5) / sequence.view.size


def test_projection_is_the_cameras(seen):
    sequence, lens, points = seen
    found = project(torch.from_numpy(points).float(), lens)
    np.testing.assert_allclose(found, places(sequence, points), atol=2e-4 if lens is None else 2e-5)
    rays = unproject(found, lens)
    unit = points / np.linalg.norm(points, axis=-1, keepdims=True)
    np.testing.assert_allclose((rays.numpy() * unit).sum(-1), 1, atol=1e-5)


def test_projection_has_the_cameras_gradient(seen):
    sequence, lens, points = seen
    point, step = torch.from_numpy(points).requires_grad_(), 1e-5
    lens = None if lens is None else lens.double()
    for axis in range(2):
        (found,) = torch.autograd.grad(project(point, lens)[..., axis].sum(), point)
        for along in range(3):
            moved = [places(sequence, points + sign * step * np.eye(3)[along])[..., axis] for sign in (1, -1)]
            slope = (moved[0] - moved[1]) / (2 * step)
            # A "fovea" view reaches NumPy's pixels through the camera and back, which costs digits.
            np.testing.assert_allclose(found[..., along], slope, atol=0.03 if lens is None else 2e-3)
    on_axis = torch.tensor([[[0.0, 0.0, 1.0]]], requires_grad=True)
    project(on_axis, None if lens is None else lens[:1].float()).sum().backward()
    assert on_axis.grad.isfinite().all()


def test_polynomials_too_long_are_refused(project_camera):
    camera = replace(project_camera, w2c=project_camera.w2c + (0.0,) * TERMS)
    sequence = SimpleNamespace(camera=camera, view=InputView.of(camera, 96, "none"), path="long.h5")
    with pytest.raises(ValueError, match=r"long\.h5: polynomials of 3 and 27 terms; .* up to 16"):
        lens_of(sequence)


def test_deformable_sampling_is_a_loop_of_bilinear_reads():
    torch.manual_seed(0)
    dim, heads, points, side = 8, 2, 3, 6
    module = Sampling(dim, heads, points)
    torch.nn.init.normal_(module.offsets.weight, std=0.3)
    torch.nn.init.normal_(module.weights.weight, std=0.3)
    queries, features = torch.randn(2, 4, dim), torch.randn(2, dim, side, side)
    at = torch.rand(2, 4, 2)
    values = module.values(features)
    offsets = module.offsets(queries).view(2, 4, heads, points, 2)
    weights = module.weights(queries).view(2, 4, heads, points).softmax(-1)
    read = torch.zeros(2, 4, dim)
    for b, j, h, p in np.ndindex(2, 4, heads, points):
        u, v = (at[b, j] * side - 0.5 + offsets[b, j, h, p]).tolist()
        for x, y in ((math.floor(u) + i, math.floor(v) + k) for i in (0, 1) for k in (0, 1)):
            if 0 <= x < side and 0 <= y < side:
                share = (1 - abs(u - x)) * (1 - abs(v - y))
                part = slice(h * dim // heads, (h + 1) * dim // heads)
                read[b, j, part] += weights[b, j, h, p] * share * values[b, part, y, x]
    torch.testing.assert_close(module(queries, features, at), module.out(read), atol=1e-5, rtol=1e-4)


def test_the_proposal_learns_from_its_own_loss_alone():
    torch.manual_seed(0)
    model = EgoPoseFormer(15, 8, torch.tensor([0.0, 0.2, 0.8]).repeat(15, 1), dim=16, layers=2)
    batch = {
        "heatmaps": torch.rand(2, 15, 8, 8), "trunk": torch.rand(2, 8, 2, 2), "pixels": torch.rand(2, 15, 2),
        "joints_3d": torch.randn(2, 15, 3),
    }  # fmt: skip
    stages = model.stages(batch)
    assert [s.shape for s in stages] == [(2, 15, 3)] * 3
    stages[-1].sum().backward()
    assert all(p.grad is None for p in model.proposal.parameters())
    pose, terms = model.training_terms(batch)
    expected = sum((s - batch["joints_3d"]).norm(dim=-1).mean() for s in stages[:-1])
    torch.testing.assert_close(terms["earlier_stages"], expected)
    torch.testing.assert_close(pose, stages[-1])


def test_soft_argmax_finds_the_one_voxel():
    logits = torch.full((2, 3, 4, 5, 7), -50.0)
    logits[0, 1, 3, 2, 6] = logits[0, 2, 0, 4, 0] = 50
    logits[1, 0, 1, 1, 1] = logits[1, 0, 2, 1, 2] = 50  # two alike: between them
    found, distance = soft_argmax(logits)
    torch.testing.assert_close(found[0, 1], torch.tensor([6.5 / 7, 2.5 / 5]))
    torch.testing.assert_close(found[0, 2], torch.tensor([0.5 / 7, 4.5 / 5]))
    torch.testing.assert_close(found[1, 0], torch.tensor([2 / 7, 1.5 / 5]))
    torch.testing.assert_close(distance[0, 1:], torch.tensor([3.5 / 4, 0.5 / 4]))
    torch.testing.assert_close(distance[1, 0], torch.tensor(0.5))


def test_soft_argmax_is_no_rougher_in_mixed_precision():
    logits = 3 * torch.randn((2, 3, 8, 16, 16), generator=torch.Generator().manual_seed(0))
    expected, distance = soft_argmax(logits)
    with torch.autocast("cpu", torch.bfloat16):
        found, along = soft_argmax(logits)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(along, distance)


@pytest.fixture
def voxels(monkeypatch):
    """SceneEgo of 8 voxels a side around the camera and below it."""
    monkeypatch.setattr("agego_lib.baselines.sceneego.GRID", 8)

    def make(true_depth=True):
        torch.manual_seed(0)
        usual = None if true_depth else np.full((24, 24), 1.5)
        return SceneEgo(15, 8, [-1.0, -0.9, -0.5], [0.8, 1.6, 1.9], usual)

    return make


def test_voxels_fill_their_box_and_are_seen_where_the_camera_sees_them(voxels, seen):
    sequence, lens, _ = seen
    found = voxels().voxels.numpy()
    sides = (np.arange(8) + 0.5) / 8
    x, y, z = -1 + 1.8 * sides, -0.9 + 2.5 * sides, -0.5 + 2.4 * sides
    np.testing.assert_allclose(found, [(a, b, c) for a in x for b in y for c in z], atol=1e-6)
    at = voxels().places(torch.from_numpy(found), lens, 2).numpy()[:, :, 0]
    assert at.shape == (2, 512, 2) and (at[0] == at[1]).all()
    expected = 2 * places(sequence, found) - 1
    angle = np.degrees(np.arccos(found[:, 2] / np.linalg.norm(found, axis=1)))
    # Of the camera that the tests have, up to 95 degrees from its axis are sure; nothing is seen from behind.
    np.testing.assert_allclose(at[0][angle < 95], expected[angle < 95], atol=1e-3)
    behind = torch.tensor([[0.1, 0.1, -1.0], [0.0, -0.2, -0.9], [-0.05, 0.02, -0.4]])
    assert (angle < 95).sum() > 300 and (voxels().places(behind, lens, 1).abs() > 1).any(-1).all()


def test_voxels_know_how_far_before_the_scene_they_are(voxels):
    model = voxels()
    depth = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2
    depth[depth < 0.4] = 0  # unknown
    at = model.places(model.voxels, None, 3)
    found = model.scene(depth, at)
    counted = {0: 0, 1: 0}
    for b in range(3):
        for n, (u, v) in enumerate((12 * (at[b, :, 0].double() + 1)).tolist()):
            inside = 0 <= u < 24 and 0 <= v < 24
            if min(abs(u - round(u)), abs(v - round(v))) < 1e-3:  # between two pixels
                continue
            there = depth[b, int(v), int(u)].item() if inside else 0.0
            gap = max(-1.0, min(1.0, (there - model.voxels[n].norm().item()) / SURFACE))
            counted[int(there > 0)] += 1
            assert found[b, :, n].tolist() == pytest.approx([gap, 1.0] if there > 0 else [0.0, 0.0], abs=1e-5)
    assert min(counted.values()) > 100


def frames_of(count):
    torch.manual_seed(1)
    batch = {"heatmaps": torch.rand(count, 15, 8, 8), "trunk": torch.randn(count, 8, 2, 2)}
    return batch | {"pixels": torch.rand(count, 15, 2), "joints_3d": torch.randn(count, 15, 3)}


def test_a_joint_is_where_its_voxels_are(voxels, monkeypatch):
    model = voxels()
    logits = torch.full((1, 15, 512), -50.0)
    logits[0, :, 77] = logits[0, 3, 78] = 50.0
    monkeypatch.setattr(model, "logits", lambda batch, depth: logits)
    found = model({"depth": None})
    torch.testing.assert_close(found[0, 0], model.voxels[77])
    torch.testing.assert_close(found[0, 3], (model.voxels[77] + model.voxels[78]) / 2)


def test_the_depth_network_learns_from_known_depth_alone(voxels):
    model, batch = voxels(true_depth=False), frames_of(4)
    batch["depth"] = torch.rand(4, 24, 24) * 9 - 1
    pose, terms = model.training_terms(batch)
    found, total, count = model.depth(batch["trunk"]), 0.0, 0
    for true, ours in zip(batch["depth"].flatten().tolist(), found.flatten().tolist(), strict=True):
        if true > 0:
            total, count = total + abs(min(true, 4.0) - ours), count + 1
    assert terms["depth"].item() == pytest.approx(total / count, rel=1e-4) and count < batch["depth"].numel()
    pose.sum().backward(retain_graph=True)
    assert all(p.grad is None for p in model.depth.parameters())
    terms["depth"].backward()
    assert all(p.grad.any() for p in model.depth.parameters())
    # It starts from the usual depth: a little that the trunk says, added to it.
    torch.nn.init.zeros_(model.depth.out.weight)
    torch.nn.init.zeros_(model.depth.out.bias)
    torch.testing.assert_close(model.depth(batch["trunk"]), torch.full((4, 24, 24), 1.5))
    depths = np.float16([[[1, 0], [9, 0]], [[2, 3], [0, 0]]])
    np.testing.assert_allclose(usual_depth(depths), [[1.5, 3], [4, 4]])
    # In the test it reads its own depth, whatever there is.
    del batch["depth"]
    torch.testing.assert_close(model(batch), model.pose(batch, torch.full((4, 24, 24), 1.5)))
    assert {k.split(".")[0] for k in voxels(true_depth=False).state_dict()} - {*voxels().state_dict()} >= {"depth"}


def test_true_depth_tells_how_far_away_joints_are(voxels):
    """Joints on the surface that is seen behind them: of new frames, whose depth nothing else tells."""
    from agego_lib.baselines import BaselineObjective
    from agego_lib.params import LossSettings

    def world(seed):
        generator = torch.Generator().manual_seed(seed)
        away = torch.rand(16, 1, 1, generator=generator) + 0.6
        at = 0.5 + 0.25 * (torch.rand(16, 15, 2, generator=generator) - 0.5)
        grid = (torch.arange(8) + 0.5) / 8
        across, down = (torch.exp(-0.5 * ((grid - at[..., i, None]) / 0.1).square()) for i in range(2))
        return {
            "heatmaps": down[..., None] * across[:, :, None], "trunk": torch.zeros(16, 8, 2, 2), "pixels": at,
            "depth": away.expand(-1, 24, 24), "joints_3d": away * unproject(at, None),
        }  # fmt: skip

    model = voxels()
    objective = BaselineObjective(model, LossSettings(1.0, 0.0, 0.0, 0.0))
    adam = torch.optim.Adam(model.parameters(), lr=8e-3)
    for step in range(60):
        adam.zero_grad()
        objective(world(step))[0].backward()
        adam.step()
    new = world(1000)
    with torch.no_grad():
        found, told = (model(batch).norm(dim=-1).mean(1) for batch in (new, new | {"depth": new["depth"].flip(0)}))
    true = new["depth"][:, 0, 0]
    assert torch.corrcoef(torch.stack([found, true]))[0, 1] > 0.8
    assert torch.corrcoef(torch.stack([told, true.flip(0)]))[0, 1] > 0.8


def test_forward_kinematics_is_scipys_chain():
    rng = np.random.default_rng(0)
    local = Rotation.random(30, random_state=1)
    bones, root = rng.normal(size=(15, 3)), rng.normal(size=(2, 3))
    found = forward_kinematics(
        torch.from_numpy(local.as_matrix()).view(2, 15, 3, 3), torch.from_numpy(root), torch.from_numpy(bones)
    )
    for b in range(2):
        turn = {0: local[15 * b]}
        place = {0: root[b]}
        for joint in range(1, 15):
            parent = PARENTS[joint]
            place[joint] = place[parent] + turn[parent].apply(bones[joint])
            turn[joint] = turn[parent] * local[15 * b + joint]
            np.testing.assert_allclose(found[b, joint], place[joint], atol=1e-12)
    lengths = [np.linalg.norm(found[:, child] - found[:, parent], axis=-1) for parent, child in BONES]
    np.testing.assert_allclose(lengths, [[np.linalg.norm(bones[child])] * 2 for _, child in BONES])


def test_six_numbers_are_a_rotation():
    torch.manual_seed(0)
    found = rotations(torch.randn(5, 4, 6, dtype=torch.float64))
    torch.testing.assert_close(found @ found.mT, torch.eye(3, dtype=torch.float64).expand(5, 4, 3, 3))
    torch.testing.assert_close(torch.linalg.det(found), torch.ones(5, 4, dtype=torch.float64))
    # Those of a rotation are that rotation.
    matrix = torch.from_numpy(Rotation.random(3, random_state=0).as_matrix())
    torch.testing.assert_close(rotations(torch.cat([matrix[..., 0], matrix[..., 1]], dim=-1)), matrix)


def flow(*sizes):
    torch.manual_seed(0)
    made = additive_flow(*sizes).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


def test_flow_inverts_and_its_volume_is_the_jacobians():
    z, context = torch.randn(2, 9, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    made = flow(9, 4, 3, 16)(context)
    x = made.transform.inv(z)
    torch.testing.assert_close(made.transform(x), z)
    noise, volumes = torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1), []
    for i in range(2):
        jacobian = torch.autograd.functional.jacobian(lambda a, i=i: made.transform.inv(a.expand(2, -1))[i], z[i])
        sign, volume = torch.linalg.slogdet(jacobian)
        assert sign != 0
        volumes.append(volume)
    # The same everywhere, without which zero noise would not be the mode; the density is the noise's over it.
    torch.testing.assert_close(*volumes)
    torch.testing.assert_close(made.log_prob(x), noise - torch.stack(volumes))


def test_flow_density_integrates_to_one():
    made = flow(2, 1, 2, 8)
    grid = torch.linspace(-12, 12, 401, dtype=torch.float64)
    x = torch.cartesian_prod(grid, grid)
    with torch.no_grad():
        density = made(torch.zeros(len(x), 1, dtype=torch.float64)).log_prob(x).exp()
    assert (density.sum() * (grid[1] - grid[0]) ** 2).item() == pytest.approx(1, abs=1e-3)


def test_zero_noise_is_the_mode():
    torch.manual_seed(0)
    model = Kolotouros(15, 8, torch.randn(15, 3), torch.rand(15, 3) + 0.1).eval()
    for p in model.flow.parameters():
        torch.nn.init.normal_(p, std=0.1)
    batch = {"trunk": torch.rand(3, 8, 2, 2), "pixels": torch.rand(3, 15, 2)}
    with torch.no_grad():
        context = model.context(batch)

        def density(pose):
            return model.flow(context).log_prob((pose.flatten(1) - model.mean) / model.deviation)

        best = density(model(batch))
        samples = model.samples(batch)
        assert samples.shape == (3, 8, 15, 3)
        for pose in (*samples.unbind(1), model(batch) + 0.02 * torch.randn(3, 15, 3)):
            assert (density(pose) < best).all()


def test_noising_has_the_mean_and_the_variance_it_should():
    shares = signal_shares()
    assert len(shares) == STEPS and (shares.diff() < 0).all() and shares[0] > 0.99 and shares[-1] < 0.01
    # Step by step, each adding its share of noise, as by one formula.
    torch.manual_seed(0)
    x = clean = torch.full((200_000, 1), 1.7)
    ratios = shares / torch.cat([torch.ones(1), shares[:-1]])
    for step in range(40):
        x = ratios[step].sqrt() * x + (1 - ratios[step]).sqrt() * torch.randn_like(x)
    at_once = noised(clean, torch.randn_like(clean), shares[39].expand(len(clean), 1))
    for found in (x, at_once):
        assert found.mean().item() == pytest.approx(1.7 * shares[39].sqrt().item(), abs=0.01)
        assert found.var().item() == pytest.approx(1 - shares[39].item(), abs=0.01)


def test_a_perfect_denoiser_gives_back_the_pose():
    torch.manual_seed(0)
    true, noise, shares = torch.randn(4, 45), torch.randn(4, 45), signal_shares()
    torch.testing.assert_close(ddim(lambda x, step: true, noise, shares), true)


def test_sampling_gives_a_gaussian_its_own_spread():
    """Of poses from N(m, s^2) the best denoiser is known, and so is the pose that each noise flows to."""
    mean, spread = 0.7, 0.4
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    apart = {}
    for steps in (100, 1000):
        shares = signal_shares(steps)

        def best(x, step, shares=shares):
            share = shares[step][:, None]
            gain = share.sqrt() * spread**2 / (share * spread**2 + 1 - share)
            return mean + gain * (x - share.sqrt() * mean)

        last = shares[-1].item()
        exact = mean + spread * (noise - math.sqrt(last) * mean) / math.sqrt(last * spread**2 + 1 - last)
        found = ddim(best, noise, shares, steps=steps)
        apart[steps] = (found - exact).abs().max().item()
    # A scheme of first order: ten times the steps, about a tenth of the error.
    assert apart[1000] < apart[100] / 5 and apart[1000] < 0.01
    assert found.std().item() == pytest.approx(spread * noise.std().item(), abs=0.01)


def test_patches_keep_their_layout():
    embedding = LimbEmbedding(10)  # px: patches of 3, and room for two more
    maps = torch.rand(2, 15, 10, 10)
    found, count = embedding.patches(maps), LimbEmbedding.PATCHES
    whole = F.pad(maps, (0, 2, 0, 2))
    assert found.shape == (2, 15, count**2, 9)
    for row, column in np.ndindex(count, count):
        cut = whole[:, :, 3 * row : 3 * row + 3, 3 * column : 3 * column + 3].flatten(2)
        torch.testing.assert_close(found[:, :, count * row + column], cut)


def test_what_a_limb_knows_goes_outwards_alone():
    """With attention cut off, a joint's map tells of that joint and of those that hang on it."""
    torch.manual_seed(0)
    model = EgoTAP(8, torch.zeros(15, 3)).eval()
    model.embed.encode = torch.nn.Identity()
    maps = torch.rand(1, 15, 8, 8)
    other = maps.clone()
    other[:, 8] = torch.rand(8, 8)  # right knee: then ankle and toe
    with torch.no_grad():
        moved = (model({"heatmaps": maps}) != model({"heatmaps": other})).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [8, 9, 10]


def test_errors_of_samples_against_a_loop(make_sequence):
    sequences = [make_sequence("samples/a", range(5)), make_sequence("samples/b", range(3))]
    rng = np.random.default_rng(0)
    samples = [s.joints_3d[:, None] + rng.normal(0, 0.1, (len(s), 4, 15, 3)) for s in sequences]
    found = sample_errors(samples, sequences)
    each = np.concatenate(
        [np.linalg.norm(p - s.joints_3d[:, None], axis=-1).mean(-1) for p, s in zip(samples, sequences, strict=True)]
    )
    assert found["samples"] == 4
    assert found["best_of_k_mpjpe_mm"] == pytest.approx(1000 * each.min(1).mean(), abs=0.006)
    assert found["first_mpjpe_mm"] == pytest.approx(1000 * each[:, 0].mean(), abs=0.006)
    middle = np.concatenate(
        [np.linalg.norm(p.mean(1) - s.joints_3d, axis=-1) for p, s in zip(samples, sequences, strict=True)]
    )
    assert found["mean_of_k_mpjpe_mm"] == pytest.approx(1000 * middle.mean(), abs=0.006)
    assert found["best_of_k_pa_mpjpe_mm"] < found["first_pa_mpjpe_mm"]


def test_settings_know_the_methods_and_what_they_cost(make_sequence):
    AblationSettings((), (), (), (), METHODS, METHODS)

    class Store:
        def read(self, number, frames):
            n = len(np.arange(2)[frames])
            return {"heatmaps": np.ones((n, 15, 16, 16), np.float16), "trunk": np.ones((n, 8, 4, 4), np.float16)}

    frames = FrameFeatures([make_sequence("cost/a", range(2))], Store())
    model = new_baseline("mo2cap2", frames, np.ones((15, 3)))
    # A 3x3 convolution from 8 to 128 channels at 4x4 places, then two linear layers.
    macs = 4 * 4 * 128 * 8 * 9 + (128 * 16 + 30) * 256 + 256 * 15
    weights = 128 * 8 * 9 + 128 + (128 * 16 + 30 + 1) * 256 + 257 * 15
    assert cost(model, frames) == {"parameters": weights, "macs": macs}
    # Attention is counted as well: 15 joints' 16 tokens to one another, twice, in both products.
    counted = cost(new_baseline("egotap", frames, np.ones((15, 3))), frames)["macs"]
    assert counted > 2 * 2 * (15 * 16) ** 2 * 48
    assert cost(new_baseline("nearest", frames, None), frames)["parameters"] == 0
