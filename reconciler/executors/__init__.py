"""Engines: what executes attempts elsewhere. One module for each, all of the shape `engine.Engine`."""
