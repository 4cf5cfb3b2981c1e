"""The simulated world, for Paddock's tests and yours: virtual clock, fake ports, fault menu, contract suites."""
