"""Parts of the localization networks (Eq. 2)."""
