"""Measurements that anyone can run. No test times anything; these do, and assert nothing."""
