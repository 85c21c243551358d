"""Tests of the sandbox: the real SDK and plain HTTP against a running one."""
