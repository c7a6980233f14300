"""Populations: who is replaced by whom, and the settings that copies go on with."""
