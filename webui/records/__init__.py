"""What a picture carries, ours or another program's, and what is made of it: settings, replay, exports, the history."""
