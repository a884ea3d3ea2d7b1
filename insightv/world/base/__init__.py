"""The tiny base: its architecture, the lessons that it learns, their four phases, and the weights that came of them."""
