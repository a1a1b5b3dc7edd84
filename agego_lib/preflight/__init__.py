"""The look before the first stage: is all there that a run needs (checks), and what does it take (budget)?"""
