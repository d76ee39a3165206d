"""Pictures of reconstructions: panels, film strips, animations."""
