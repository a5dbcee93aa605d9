"""Attempts that engines execute: handed over, looked at, brought home and ended."""
