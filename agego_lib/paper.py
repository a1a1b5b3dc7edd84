"""What the paper itself reports (Azam, Quarles and Desai, AG-EgoPose), on real EgoPW and SceneEgo.

A number is (MPJPE, PA-MPJPE) in mm, None where the paper has none.
"""

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
# Tables 1 and 2: published methods on the real test sets, of which baselines.py has simplified kin.
METHODS = {
    "xr_egopose": {"egopw": (None, None), "sceneego": (241.3, 133.9)},
    "mo2cap2": {"egopw": (None, 102.3), "sceneego": (200.3, 121.2)},
}
# Table 3.
PARAMETERS, FLOPS = 11.4e6, 8.0e9
# What our numbers lack to be set against these, by data set.
GAP = "the real {} data and the paper's weights"
