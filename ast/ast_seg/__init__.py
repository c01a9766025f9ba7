"""AST-Seg's library. It lives beside the commands of ``ast/`` because that folder may not be a package itself."""
