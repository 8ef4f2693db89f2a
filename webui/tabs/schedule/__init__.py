"""The parts of the Schedule tab: curves, their words, and a picture on its way into noise."""
