"""Rules by which two answers are compared: wording, numbers and their units, dates and times, sentences around an answer."""
