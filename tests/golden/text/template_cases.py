def render_all(v3_template):
    return []
