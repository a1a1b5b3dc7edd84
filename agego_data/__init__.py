"""The embedded data: bodies, scenes and a renderer that writes EgoPW and SceneEgo look-alikes."""
