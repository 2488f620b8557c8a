"""The tests of ovspane. A package so that the tiers share tests.lab; the tiers themselves are plain folders."""
