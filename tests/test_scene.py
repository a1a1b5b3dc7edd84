"""Pictures of the embedded data against independent references: ray casting, closed forms, counts over many draws."""

import cv2
import numpy as np
import pytest

from agego_data import body as bodies
from agego_data import clothes, motion, optics, props, scene, surfaces, synthetic
from agego_lib.datasets.image_circle import fit_circle, is_off

HELD = ("paper", "book", "box", "phone.R", "phone.L", "cup.R", "cup.L", "bag.R", "bag.L")
HIP, KNEE, ANKLE = 7, 8, 9
# A usual place of each set's camera in the head's axes, metres, and its tilt, degrees.
MOUNTS = {"egopw": ((0.0, -0.28, 0.12), 13.0), "sceneego": ((0.0, -0.25, 0.155), 15.5)}


@pytest.fixture
def materials():
    rng = np.random.default_rng(0)
    return props.Materials(rng, surfaces.Atlas())


def turned(**degrees):
    """Rotation vectors about x, in degrees, by bone name with _ for the dot -> quaternions by bone name."""
    return {n.replace("_", "."): bodies.from_vector(np.radians([a, 0.0, 0.0])) for n, a in degrees.items()}


ARMS = turned(upperarm_R=-35, upperarm_L=-35, forearm_R=-65, forearm_L=-65)
SITTING = turned(thigh_R=-85, thigh_L=-85, shin_R=85, shin_L=85)


def take_of(body, pose, frames=1, held="", seat=np.nan, desk=np.nan, dataset="sceneego"):
    """A still take: pose gives the turns of some bones; the head looks slightly down."""
    rotations = np.zeros((frames, len(body.bone_names), 4))
    rotations[..., 0] = 1
    for name, turn in (pose | turned(head=8)).items():
        rotations[:, body.bone(name)] = turn
    words, numbers = np.full(frames, "still"), [np.full(frames, value, float) for value in (seat, desk)]
    nothing = [np.full(frames, "", dtype="U8"), *np.full((2, frames), np.nan)]
    still = motion.Motion(np.tile([0.0, 0.0, 1.0], (frames, 1)), rotations, words, *nothing)
    roots = motion.on_the_floor(body, still, 30)
    starts, turns = body.pose(roots, rotations)
    (place, tilt), head = MOUNTS[dataset], body.bone("head")
    fixed = synthetic.LOOK_DOWN @ cv2.Rodrigues(np.radians([tilt, 0.0, 0.0]))[0]
    camera_turns, camera_places = turns[:, head] @ fixed, starts[:, head] + turns[:, head] @ np.array(place)
    joints = np.einsum("tij,tni->tnj", camera_turns, body.joints(starts) - camera_places[:, None])
    return synthetic.Take(
        starts, turns, camera_turns, camera_places, joints, words, np.full(frames, held, dtype="U8"), *numbers
    )


def stage_of(body, take, seed=0):
    return scene.Stage.random(np.random.default_rng((seed, 1)), np.random.default_rng((seed, 2)), body, take)


def volume(mesh):
    """By the divergence theorem: positive where closed meshes wind outwards."""
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    return (a * np.cross(b, c)).sum() / 6


def test_meshes_wind_outwards_and_have_their_size(materials):
    patch = materials.wood
    box = props.block((1.0, 2.0, 3.0), (1.5, 2.3, 4.0), patch, 0.2, bottom=True)
    assert volume(box) == pytest.approx(0.5 * 0.3 * 1.0)
    rod = props.post((1, 1, 1), (1.3, 1.4, 1), 0.05, patch, sides=64)
    outwards = scene.flat_normals(rod.vertices, rod.faces)
    middle = rod.vertices[rod.faces].mean(1) - (1, 1, 1)
    axis = np.array([0.6, 0.8, 0])
    away = middle - (middle @ axis)[:, None] * axis
    assert (outwards * away).sum(1).min() > 0.04
    egg = props.ball((0.2, 0, 0), (0.1, 0.2, 0.3), patch, rows=40, columns=60)
    assert volume(egg) == pytest.approx(4 / 3 * np.pi * 0.1 * 0.2 * 0.3, rel=0.02)
    both = props.join([box, egg])
    assert volume(both) == pytest.approx(volume(box) + volume(egg)) and len(both.uv) == len(both.faces)
    page = props.sheet(np.stack(np.meshgrid([0, 1.0], [1.0, 0], [0]), -1)[..., 0, :], patch, back=patch)
    assert scene.flat_normals(page.vertices, page.faces)[:, 2].tolist() == [1, 1, -1, -1]


def test_colours_are_looked_up_where_each_ray_meets_its_triangle(viewer, people):
    """Light and place in the texture at some pixels, by Moller and Trumbore's barycentric coordinates."""
    rng = np.random.default_rng(4)
    body = people[3]
    take = take_of(body, ARMS)
    turn, place = take.camera_turns[0], take.camera_places[0]
    vertices, faces = body.skin(take.starts[0], take.turns[0]), body.faces
    # A texture in which a colour tells its place, and a light that differs at every corner.
    atlas = np.zeros((256, 256, 4), np.uint8)
    atlas[..., 0], atlas[..., 1], atlas[..., 2] = np.arange(256), np.arange(256)[:, None], 200
    values = np.zeros((len(faces), 3, 6), np.float32)
    values[..., :2], values[..., 4:] = 1.0, rng.uniform(40, 216, (len(vertices), 2))[faces]
    values[..., 2] = rng.uniform(0.3, 0.9, len(vertices))[faces]
    ids = viewer.draw(vertices, faces, turn, place)
    image = np.zeros((*ids.shape, 3), np.uint8)
    viewer._openness = lambda covered, depth: np.ones(len(covered), np.float32)
    try:
        viewer.paint(image, ids, vertices, faces, values, atlas, turn, place)
    finally:
        del viewer._openness
    assert not image[ids < 0].any()
    checked = 0
    for v, u in rng.permutation(np.argwhere(ids >= 0))[:400]:
        ray = turn @ viewer.camera.unproject(np.array([u, v], float), 1.0)
        a, b, c = vertices[faces[ids[v, u]]]
        p = np.cross(ray, c - a)
        det = p @ (b - a)
        second = p @ (place - a) / det
        third = np.cross(place - a, b - a) @ ray / det
        weights = np.array([1 - second - third, second, third])
        if weights.min() < 0.02:
            continue
        expected = weights @ values[ids[v, u]]
        assert np.abs(image[v, u] - (expected[4], expected[5], 200 * expected[2])).max() < 2.5
        checked += 1
    assert checked > 200


def test_depth_is_what_rays_meet_first(viewer, people):
    """Of room, furniture and what is sat on, by Moller and Trumbore's test and the planes of floor and walls."""
    from test_synthetic import nearest_surface

    sounder, apart, things = scene.Sounder(viewer.full), [], 0
    camera = viewer.full.scaled(scene.ROWS / viewer.full.size[1])
    for k in range(2):
        body = people[k]
        take = take_of(body, SITTING, seat=0.45, desk=0.7 if k else np.nan, held="laptop" if k else "")
        stage = stage_of(body, take, k)
        found = synthetic.distances(sounder, stage, take, 0)
        assert found.shape == camera.size[::-1] == (scene.ROWS, 60) and found.dtype == np.float32
        standing = stage.surroundings(0)
        vertices, faces = standing.vertices, standing.faces
        turn, eye, (x0, x1, y0, y1) = take.camera_turns[0], take.camera_places[0], stage.room.bounds
        rng = np.random.default_rng(k)
        for v, u in rng.permutation(np.argwhere(found > 0))[:250]:
            ray = turn @ camera.unproject(np.array([u, v], float), 1.0)
            to = [(wall - eye[i]) / ray[i] for i, wall in ((0, x0), (0, x1), (1, y0), (1, y1), (2, 0.0))]
            room, thing = min(t for t in to if t > 0), nearest_surface(vertices, faces, eye, ray)
            apart.append(abs(found[v, u] / min(room, thing) - 1))
            things += thing < room
        pixels = np.stack(np.meshgrid(np.arange(60), np.arange(48)), -1)
        np.testing.assert_array_equal(found > 0, camera.in_image(pixels))
    # A triangle's rim may cover a pixel whose middle lies beside it.
    assert np.mean(np.array(apart) < 1e-3) > 0.9 and np.mean(apart) < 0.02 and things > 60


def test_light_on_a_floor_is_about_one():
    for seed in range(20):
        lights = scene.Lights.random(np.random.default_rng(seed))
        up, down = lights.on(np.array([[0, 0, 1.0], [0, 0, -1.0]]))
        assert 0.6 < up.mean() < 1.4 and down.mean() < up.mean()
        assert lights.glint(np.array([[0, 0, 1.0]]), lights.directions[:1] * (-1, -1, 1)).min() >= 0


def test_shadows_fall_away_from_the_lamp():
    starts, parents = np.array([[2.0, 3.0, 0.0], [2.0, 3.0, 1.0]]), [-1, 0]
    lamp = np.array([[1.0, 0.0, 1.0]]) / np.sqrt(2)
    lights = scene.Lights(lamp, np.full((1, 3), 0.8), np.full(3, 0.1), np.full(3, 0.1))
    dark, corner, scale = scene.floor_shadow(starts, parents, lights)
    rows, columns = np.mgrid[: dark.shape[0], : dark.shape[1]]
    weight = 255.0 - dark
    middle = np.array([(columns * weight).sum(), (rows * weight).sum()]) / weight.sum() / scale + corner
    np.testing.assert_allclose(middle, (1.5, 3.0), atol=0.1)
    assert dark.min() < 130 and dark[0].min() == 255


@pytest.mark.parametrize("held", HELD)
def test_what_is_held_is_at_the_hands(held, viewer, people):
    """Its pixels show up about where the hands project, and it is as far from the camera as they are."""
    seen = 0
    for k in range(4):
        body = people[2 + 5 * k]
        pose = ARMS if not held.startswith("bag") else turned(upperarm_R=-15, upperarm_L=-15)
        take = take_of(body, pose, held=held)
        stage = stage_of(body, take, k)
        vertices, faces, values, body_faces, worn_faces = stage.parts(take, 0)
        ((_, _, _, mesh, _),) = stage.held
        assert values.shape == (len(faces), 3, 6) and np.isfinite(values).all()
        count = len(mesh.faces)
        assert worn_faces == body_faces + count + len(stage.gear.faces)
        wrists = take.starts[0, [body.bone(f"hand.{s}") for s in ("RL" if "." not in held else held[-1])]]
        own = vertices[np.unique(faces[body_faces : body_faces + count])]
        assert np.linalg.norm(own[:, None] - wrists, axis=-1).min() < 0.2
        ids = viewer.draw(vertices, faces, take.camera_turns[0], take.camera_places[0])
        pixels = np.argwhere((ids >= body_faces) & (ids < body_faces + count))[:, ::-1]
        if len(pixels) > 15:
            at = viewer.camera.project((wrists - take.camera_places[0]) @ take.camera_turns[0])
            assert np.linalg.norm(pixels[:, None] - at, axis=-1).min() < 40
            image, wearer, _ = synthetic.draw_frame(viewer, stage, take, 0)
            assert wearer[pixels[:, 1], pixels[:, 0]].all() and image.dtype == np.uint8
            seen += 1
    assert seen >= 2


def test_box_reaches_from_hand_to_hand(people, materials):
    body = people[0]
    take, grip = take_of(body, ARMS), props.Grip(body)
    (right, _), (left, _) = (grip.place(side, take.starts[0], take.turns[0]) for side in "RL")
    gap = np.linalg.norm(right - left)
    mesh = props.held_mesh("box", np.random.default_rng(0), materials, gap)
    box = mesh.moved(*props.held_pose("box", grip, take.starts[0], take.turns[0], take.camera_places[0], 0.0))
    along = (box.vertices - left) @ (right - left) / gap
    assert -0.01 < along.min() < 0.05 and gap - 0.05 < along.max() < gap + 0.01
    assert volume(box) > 0


def test_unknown_things_are_refused(materials, people):
    with pytest.raises(ValueError, match=r"held 'sword'.*expected"):
        props.held_mesh("sword", np.random.default_rng(0), materials, 0.3)
    with pytest.raises(ValueError, match=r"held 'sword'.*expected"):
        stage_of(people[0], take_of(people[0], {}, held="sword"))
    with pytest.raises(ValueError, match=r"frame 0: held 'laptop'.*table"):
        stage_of(people[0], take_of(people[0], {}, held="laptop"))


def test_paper_and_table_hide_joints(viewer, people):
    """A sheet before the hips hides them, a table top the knees below it; neither hides what lies before it."""
    body = people[6]
    take = take_of(body, ARMS)
    turn, place = take.camera_turns[0], take.camera_places[0]
    joints = body.joints(take.starts[0])
    vertices = body.skin(take.starts[0], take.turns[0])
    patch = surfaces.Patch(0, 0, 8, 8)
    for height in (0.3, 0.7, 1.2):
        x, y = np.meshgrid(np.linspace(-2, 2, 40), np.linspace(2, -2, 40))
        plate = props.sheet(np.stack([x, y, np.full_like(x, height)], axis=-1), patch)
        both = np.concatenate([vertices, plate.vertices])
        faces = np.concatenate([body.faces, plate.faces + len(vertices)])
        ids = viewer.draw(both, faces, turn, place)
        hidden = viewer.hidden(ids, both, faces, len(body.faces), joints, place, turn)
        alone = viewer.draw(vertices, body.faces, turn, place)
        before = viewer.hidden(alone, vertices, body.faces, len(body.faces), joints, place, turn)
        inside = viewer.camera.in_image(viewer.camera.project((joints - place) @ turn))
        below, over = joints[:, 2] < height - 0.1, joints[:, 2] > height + 0.15
        assert hidden[below & inside].all()
        np.testing.assert_array_equal(hidden[over], before[over])


def test_seat_and_table_stand_where_they_are_wanted(viewer, people):
    body = people[8]
    take = take_of(body, SITTING | ARMS, frames=3, held="laptop")
    seat = take.starts[0, 0, 2] - 0.1
    take.seat_m[:2], take.desk_m[1:], take.held[0] = seat, 0.74, ""
    stage = stage_of(body, take)
    room, chair, table, computer = stage.standing
    assert room[:2] == (0, 3) and chair[:2] == (0, 2) and table[:2] == (1, 3) and computer[:2] == (1, 3)
    pelvis, ahead = take.starts[0, 0], -take.turns[0, 0][:, 1]
    near = np.linalg.norm(chair[2].vertices[:, :2] - pelvis[:2], axis=1) < 0.3
    level = chair[2].vertices[near, 2]
    assert np.isclose(level, seat).any() and chair[2].vertices[:, 2].min() > -0.01
    top = table[2].vertices[np.isclose(table[2].vertices[:, 2], 0.74)]
    gaps = (top - pelvis) @ ahead
    assert len(top) > 20 and 0.2 < gaps.min() < 0.4 and gaps.max() > 0.7
    keys = computer[2].vertices
    assert 0.74 < keys[:, 2].min() < 0.78 and np.abs((keys - pelvis) @ (1, 0, 0)).max() < 0.3
    counts = [len(stage.parts(take, i)[1]) for i in range(3)]
    assert counts[1] - counts[0] == len(table[2].faces) + len(computer[2].faces)
    assert counts[1] - counts[2] == len(chair[2].faces)
    # The table hides knees and ankles, if they are below it in the picture.
    _, _, hidden = synthetic.draw_frame(viewer, stage, take, 1)
    assert hidden[[KNEE, ANKLE]].all()


def test_runs():
    assert scene.runs(["", "a", "a", "b", "", "b"]) == [(1, 3, "a"), (3, 4, "b"), (5, 6, "b")]
    assert scene.runs([np.nan, 0.4, 0.5, 0.5, np.nan, 0.7]) == [(1, 4, 0.5), (5, 6, 0.7)]
    assert scene.runs([np.nan] * 3) == [] and scene.runs(np.array([], dtype="U3")) == []


def test_a_full_atlas_says_so():
    atlas = surfaces.Atlas()
    patch = atlas.add(np.full((40, 50, 3), 300.0))
    assert atlas.image[patch.top - 2, patch.left - 2, :3].tolist() == [255, 255, 255]
    corners = patch.uv(np.array([0, 1, 7]), np.array([0, 1, -3]))
    np.testing.assert_array_equal(corners[:2], [[patch.left, patch.top], [patch.left + 49, patch.top + 39]])
    assert corners[2].tolist() == [patch.left + 49, patch.top]
    with pytest.raises(ValueError, match=r"atlas.*full"):
        for _ in range(20):
            atlas.add(np.zeros((300, 500, 3)))


def test_sleeves_end_where_they_should(people):
    """Above the sleeve's end an arm's patch is cloth, below it skin."""
    rng = np.random.default_rng(1)
    skin, shirt = np.array([120.0, 150, 200]), np.array([200.0, 30, 30])
    fabric = np.tile(shirt, (192, 96, 1))
    for covered in (0.4, 1.0, 1.8):
        image = clothes.limb_texture(rng, skin, covered, fabric.copy(), 1.0, 0.0)
        along = np.linspace(-clothes.MARGIN, clothes.LONGEST, 192)
        blue = image[..., 0].mean(1) > image[..., 2].mean(1)
        at = np.abs(along - covered) > 0.012  # but for the row at the end itself
        np.testing.assert_array_equal(blue[at], along[at] < covered)
    body = people[0]
    along, around = clothes.limb_coordinates(body)
    for side in "RL":
        # Half way from shoulder to elbow is 0.5, from elbow to wrist 1.5.
        for bone, base, after in (("upperarm", 0, "forearm"), ("forearm", 1, "hand")):
            start, end = body.starts[body.bone(f"{bone}.{side}")], body.starts[body.bone(f"{after}.{side}")]
            faces = body.face_bone == body.bone(f"{bone}.{side}")
            share = (body.vertices[body.faces[faces]] - start) @ (end - start) / ((end - start) @ (end - start))
            np.testing.assert_allclose(along[faces], base + share)
            assert np.ptp(around[faces], axis=1).max() < 0.6


def test_outside_the_circle_is_the_grey_that_was_drawn(viewer, people):
    body = people[1]
    take = take_of(body, {})
    stage = stage_of(body, take)
    image, _, _ = synthetic.draw_frame(viewer, stage, take, 0)
    width, height = viewer.full.size
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)
    outside = np.linalg.norm(grid - viewer.full.centre, axis=-1) > viewer.full.radius * 1.01
    greys = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        lens = optics.Optics.random(rng, viewer)
        out = lens.finish(image, lens.curve(image), take.camera_turns[0], viewer, rng)
        assert out.shape == (height, width, 3) and 0 <= lens.border <= 40
        # Noise about black is cut off below.
        assert abs(np.median(out[outside]) - lens.border) <= 1.5
        greys.add(lens.border)
    assert 22 in greys and len(greys) >= 3


def test_the_circle_that_frames_show_is_the_calibration_s(viewer, people):
    body = people[1]
    take = take_of(body, {})
    image, _, _ = synthetic.draw_frame(viewer, stage_of(body, take), take, 0)
    full = viewer.full
    shares = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        lens = optics.Optics.random(rng, viewer)
        out = lens.finish(image, lens.curve(image), take.camera_turns[0], viewer, rng)
        circle = fit_circle(cv2.cvtColor(out, cv2.COLOR_BGR2GRAY))
        assert circle is not None and not is_off(full, circle), (seed, circle)
        shares.append(circle[1] / full.radius)
    assert 0.95 < min(shares) < 0.985 < max(shares) < 1.005


def test_surroundings_smear_along_the_camera_s_way_and_the_wearer_does_not(viewer):
    lens = optics.Optics.random(np.random.default_rng(0), viewer)
    image = np.zeros((41, 41, 3), np.uint8)
    image[20, 20] = image[5, 5] = 240
    kept = np.zeros((41, 41), bool)
    kept[5, 5] = True
    object.__setattr__(lens, "shutter", 0.5)
    out = lens.smeared(image, kept, (12.0, 0.0))
    assert out[5, 5].tolist() == [240] * 3 and out[20, 17:24].min() > 20 and out[20, 20].max() < 60
    assert not out[19].any() and not out[21].any()
    assert lens.smeared(image, kept, (1.0, 0.0)) is image


def test_pictures_vary(viewer, people):
    """Twenty sequences: brightness, colour and contrast spread, and no two look alike."""
    small = []
    body = people[4]
    take = take_of(body, ARMS)
    for seed in range(20):
        stage, rng = stage_of(body, take, seed), np.random.default_rng(seed)
        lens = optics.Optics.random(rng, viewer)
        image, _, _ = synthetic.draw_frame(viewer, stage, take, 0)
        image = lens.finish(image, lens.curve(image), take.camera_turns[0], viewer, rng)
        small.append(cv2.resize(image, (20, 16), interpolation=cv2.INTER_AREA)[3:13, 5:15].astype(float))
    small = np.stack(small)
    means = small.mean((1, 2, 3))
    assert np.ptp(means) > 60 and means.std() > 15 and 50 < means.mean() < 150
    assert small.std((1, 2, 3)).std() > 5
    colour = small.mean((1, 2)) / means[:, None]
    assert colour.std(0).min() > 0.03
    distance = np.abs(small[:, None] - small[None]).mean((2, 3, 4)) + 99 * np.eye(20)
    assert distance.min() > 6
    chest = small[:, 7:9, 4:6].mean((1, 2, 3)) / means
    assert (chest < 0.6).sum() >= 4 and (chest > 0.9).sum() >= 3  # black on bright floors, and the reverse
