"""What every request passes before a route sees it, whatever it asks for."""
