"""Queue, worker, jobs and their progress: jobs go in, events come out. No gradio."""
