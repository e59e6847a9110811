"""Running a model under a policy or a measurement: interception, locator, engine, recorder, FLOP counter."""
