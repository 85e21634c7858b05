"""Looking at a project without changing it: doctor, history, explanations, policies."""
