"""What the paper itself reports (Azam, Quarles and Desai, AG-EgoPose), on real EgoPW and SceneEgo, and what others do.

A number is (MPJPE, PA-MPJPE) in mm, None where its source has none.
"""

from pathlib import Path

from agego_lib.datasets import TITLES
from agego_lib.params import STARTS

# Tables 1 and 2.
RESULTS = {"egopw": (None, 76.7), "sceneego": (104.0, 76.2)}
# Tables 4 and 5: rows without one part.
ABLATIONS = {
    "full": {"egopw": (None, 76.7), "sceneego": (104.0, 76.2)},
    "no_cross_attention": {"egopw": (None, 83.1), "sceneego": (114.3, 81.6)},
    "no_motion": {"egopw": (None, 90.8), "sceneego": (113.2, 80.8)},
    "no_spatial": {"egopw": (None, 78.8), "sceneego": (108.1, 79.6)},
}
# Table 6: the heatmap network's loss.
LOSSES = {"bce": RESULTS, "mse": {"egopw": (None, 83.1), "sceneego": (108.2, 80.3)}}
# Table 7: window lengths T.
WINDOWS = {
    32: {"egopw": (None, 77.0), "sceneego": (106.6, 76.9)},
    64: RESULTS,
    128: {"egopw": (None, 77.7), "sceneego": (107.5, 77.0)},
}
# Tables 1 and 2: published methods on the real test sets, of which baselines/ has simplified kin.
METHODS = {
    "xr_egopose": {"egopw": (None, None), "sceneego": (241.3, 133.9)},
    "mo2cap2": {"egopw": (None, 102.3), "sceneego": (200.3, 121.2)},
    "selfpose": {"egopw": (None, 112.0), "sceneego": (None, None)},
    "kolotouros": {"egopw": (None, 88.6), "sceneego": (None, None)},
    "egohmr": {"egopw": (None, 85.8), "sceneego": (None, None)},
    "egopw": {"egopw": (None, 84.2), "sceneego": (189.6, 105.3)},
    "sceneego": {"egopw": (None, None), "sceneego": (118.5, 92.7)},
}
# Table 3.
PARAMETERS, FLOPS = 11.4e6, 8.0e9
# Published elsewhere, each by its own authors, on SceneEgo's test split.
ELSEWHERE = (
    ("SceneEgo", "CVPR 2023", 1, (118.5, 92.7)),
    ("EgoPoseFormer", "ECCV 2024", 1, (93.0, None)),
    ("EgoWholeMocap", "CVPR 2024", 1, (64.2, None)),
    ("EgoWholeMocap, refined", "CVPR 2024", 196, (57.6, None)),
)
# Of these, the ones that baselines/ has simplified kin of.
METHODS_ELSEWHERE = {
    "egoposeformer": ({"egopw": (None, None), "sceneego": (93.0, None)}, "its authors, ECCV 2024"),
    "egowholemocap": ({"egopw": (None, None), "sceneego": (64.2, None)}, "its authors, CVPR 2024"),
}
# PA-MPJPE in mm, published by each method's own authors on motion capture; none is known here on Mo2Cap2's set.
MOCAP = {
    "globalegomocap": (
        ("EgoPW", "CVPR 2022", 81.7),
        ("SceneEgo", "CVPR 2023", 76.5),
        ("EgoWholeMocap", "CVPR 2024", 65.8),
    ),
    "mo2cap2": (),
}
# What a reader of these numbers must know.
NOTES = (
    '"EgoPW test" is not one benchmark. The EgoPW paper, and EgoHMR\'s code, test on the GlobalEgoMocap set: motion '
    "capture, about 12,000 frames of 2 actors. AG-EgoPose's released lists name 39 sequences of 3 actors with pseudo "
    "labels. Its Table 1 seems to set numbers of the one beside a number of the other.",
    "SceneEgo's test sequences are other takes of people who are in its training sequences too: its numbers say "
    "nothing of people never seen.",
    "AG-EgoPose's 104.0 mm on SceneEgo is not the best published: EgoPoseFormer and EgoWholeMocap have less from a "
    "single frame.",
)


def elsewhere():
    """ELSEWHERE and the paper's own figure as a table -> list of dicts; none of its numbers was measured here."""
    rows = (*ELSEWHERE, ("AG-EgoPose", "the paper, Table 2", 64, RESULTS["sceneego"]))
    return [
        {
            "method": method,
            "published": venue,
            "frames seen": frames,
            "MPJPE (mm)": figures[0],
            "PA-MPJPE (mm)": figures[1] or "–",
        }
        for method, venue, frames, figures in sorted(rows, key=lambda row: -row[3][0])
    ]


def gap(settings, data_set):
    """What our numbers lack to be set against the paper's on a data set -> text, empty where nothing is known to.

    Told by the settings of the run: its data, its weights, and what the paper gives of its own (Sec. 3 and 4.2).
    """
    s, init = settings, settings.visual.init
    # Of a weights file given by its path, nobody here knows what it was trained on.
    unless = "" if init in STARTS else f", unless {Path(init).name} holds them"
    heatmap, motion, decoder = s.heatmap, s.motion, s.decoder
    heatmaps = (heatmap.loss, heatmap.sigma, heatmap.optimiser.epochs, heatmap.optimiser.batch_size)
    architecture = (motion.depth, motion.local_blocks, decoder.layers, decoder.heads)
    added = (decoder.embedding, decoder.memory_joint_embedding, decoder.start_at_mean_pose)
    kind = (decoder.kind, decoder.init, decoder.use_motion)
    training = {(t.epochs, t.batch_size, t.lr, t.lr_final) for t in (s.pose, s.finetune)}
    lacks = {
        f"the real {TITLES[data_set]} data": s.dataset.source == "synthetic",
        f"ImageNet weights{unless}": init != "imagenet",
        "Ego4D weights": motion.checkpoint is None,
        "ResNet-50": s.visual.backbone != "resnet50",
        "frames of 256 px": s.prepare.size != 256,
        "windows of 64 frames in a row": (s.window.length, s.window.step, s.window.stride) != (64, 1, 32),
    }
    own = {
        "heatmap training": heatmaps != ("bce", 2.0, 20, 8),
        "decoder": (*kind, *architecture, *added) != ("paper", "scratch", True, 8, 4, 3, 4, "cnn", False, False),
        "losses": tuple(vars(s.loss).values()) != (1.0, 0.1, 0.01, 0.0),
        "pose training": training != {(30, 8, 1e-3, 1e-4)},
    }
    if any(own.values()):
        lacks["the paper's " + ", ".join(text for text, differs in own.items() if differs)] = True
    return "; ".join(text for text, lacking in lacks.items() if lacking)
