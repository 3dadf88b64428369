"""Thin routes: each names its input, asks one object of `service.inference`, returns one schema."""
