"""What people look at: figures (Plotly), tables beside the paper's, and the explorer of 06_explore."""
