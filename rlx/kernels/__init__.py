"""Operations in several implementations: a plain one that defines it, and others that are compared with it."""
