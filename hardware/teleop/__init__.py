"""A person at the controls: keyboard, SpaceMouse, gamepad, leader arm, a page in a browser. Each is a Pilot."""
