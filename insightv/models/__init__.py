"""Models behind one seam: whatever answers messages is a `Chat`."""
