"""What of a run is handed on: its data sets and models, each with a card of how it was made."""
