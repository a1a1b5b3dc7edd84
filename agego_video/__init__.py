"""Video in and out: frames of a file or folder, overlays, BVH, and the prediction of a whole recording."""
