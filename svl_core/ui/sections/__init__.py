"""The page below its main line, a file for each section: its layout, its wiring, its work."""
