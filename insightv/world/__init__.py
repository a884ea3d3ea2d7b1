"""The built-in tiny world: pictures, questions, a simulated teacher and a tiny base model."""
