"""The tests; helpers that several files share are imported from here (`from tests.tiny import TINY`)."""
