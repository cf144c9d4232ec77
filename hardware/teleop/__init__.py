"""A person at the controls: keyboard, SpaceMouse, leader arm. Each is a Pilot."""
