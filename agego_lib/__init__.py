"""AG-EgoPose: egocentric 3D human pose from a head-mounted fisheye camera."""
