"""Everything that touches ComfyUI's own modules; the rest of the pack never imports them.

Files whose classes derive from ComfyUI's import it at the top and are themselves imported late.
"""
