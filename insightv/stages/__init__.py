"""What each stage of the method does: a function from finished stages to the files of a new one, and a summary of it.

`loop.py` says in which order; `processes.py` runs them. A function gets the context and the folder to write to.
"""
