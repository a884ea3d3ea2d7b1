"""From judged chains to data sets: reasoning, summary and preference rows, and their export for any trainer."""
