"""Why a published number is wrong: exact attribution of the gap to six causes, and what may be believed instead."""
