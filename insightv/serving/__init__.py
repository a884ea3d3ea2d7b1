"""The pair as one model behind an OpenAI-compatible URL, with a page to talk to it and a viewer for a run's data."""
