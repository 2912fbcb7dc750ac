"""FleetService: the agents and the coordinator itself, as operators see and order them."""

from __future__ import annotations

from collections.abc import Callable

import outrider
from outrider import errors
from outrider.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from outrider_coordinator.access.principals import caller
from outrider_coordinator.access.registrar import Registrar
from outrider_coordinator.core.events import AgentOrder, AgentOrdered, BreakerReset
from outrider_coordinator.core.explain.explain_agent import explain_agent
from outrider_coordinator.core.model import Agent
from outrider_coordinator.core.states import TaskState
from outrider_coordinator.engine import Engine
from outrider_coordinator.rpc import render
from outrider_coordinator.rpc.calls import Context, Service, asked, sliced, unary
from outrider_coordinator.rpc.credentials import JOIN_LIFE_MAX_US, JOIN_LIFE_US, join_token, life_us, uses
from outrider_coordinator.rpc.fields import bounded_us, invalid


class FleetService(Service, fleet_service_pb2_grpc.FleetServiceServicer):
    """Handlers of FleetService over one engine."""

    def __init__(self, engine: Engine, registrar: Registrar, join_address: Callable[[], str]) -> None:
        super().__init__()
        self._engine = engine
        self._registrar = registrar
        self._join_address = join_address

    @unary
    async def ExplainAgent(
        self, request: fleet_service_pb2.ExplainAgentRequest, context: Context
    ) -> fleet_service_pb2.ExplainAgentResponse:
        """Why an agent gets no work, and what waits for something else than it."""
        facts = await sliced(explain_agent(self._engine.state, request.agent_id))
        if facts is None:
            raise _unknown(request.agent_id)
        return render.agent_explanation(facts)

    @unary
    async def ListSystems(
        self, request: fleet_service_pb2.ListSystemsRequest, context: Context
    ) -> fleet_service_pb2.ListSystemsResponse:
        """Outside systems that are down or suspected to be, by name."""
        state = self._engine.state
        shown = [render.system(state, name) for name in sorted(state.systems)]
        return fleet_service_pb2.ListSystemsResponse(systems=shown)

    @unary
    async def ListAgents(
        self, request: fleet_service_pb2.ListAgentsRequest, context: Context
    ) -> fleet_service_pb2.ListAgentsResponse:
        """Every known agent, by id."""
        agents = sorted(self._engine.state.agents.values(), key=lambda agent: agent.id)
        return fleet_service_pb2.ListAgentsResponse(agents=[render.agent(agent) for agent in agents])

    @unary
    async def GetAgent(
        self, request: fleet_service_pb2.GetAgentRequest, context: Context
    ) -> fleet_service_pb2.GetAgentResponse:
        """One agent with its workers."""
        agent = self._agent(request.agent_id)
        return fleet_service_pb2.GetAgentResponse(agent=render.agent(agent, with_workers=True))

    def _agent(self, agent_id: str) -> Agent:
        agent = self._engine.state.agents.get(agent_id)
        if agent is None:
            raise _unknown(agent_id)
        return agent

    async def _order(
        self, agent_id: str, order: str, *, force: bool = False, timeout_us: int = 0
    ) -> fleet_service_pb2.Agent | None:
        await asked(self._engine, lambda reply: AgentOrdered(agent_id, order, reply, force, timeout_us))
        agent = self._engine.state.agents.get(agent_id)
        return render.agent(agent) if agent is not None else None

    @unary
    async def PauseAgent(
        self, request: fleet_service_pb2.PauseAgentRequest, context: Context
    ) -> fleet_service_pb2.PauseAgentResponse:
        """No new work for an agent."""
        return fleet_service_pb2.PauseAgentResponse(agent=await self._order(request.agent_id, AgentOrder.PAUSE))

    @unary
    async def ResumeAgent(
        self, request: fleet_service_pb2.ResumeAgentRequest, context: Context
    ) -> fleet_service_pb2.ResumeAgentResponse:
        """New work again."""
        return fleet_service_pb2.ResumeAgentResponse(agent=await self._order(request.agent_id, AgentOrder.RESUME))

    @unary
    async def DrainAgent(
        self, request: fleet_service_pb2.DrainAgentRequest, context: Context
    ) -> fleet_service_pb2.DrainAgentResponse:
        """Finish and leave."""
        timeout_us = bounded_us(request.timeout)
        agent = await self._order(request.agent_id, AgentOrder.DRAIN, timeout_us=timeout_us)
        return fleet_service_pb2.DrainAgentResponse(agent=agent)

    @unary
    async def RemoveAgent(
        self, request: fleet_service_pb2.RemoveAgentRequest, context: Context
    ) -> fleet_service_pb2.RemoveAgentResponse:
        """Forget an agent."""
        await self._order(request.agent_id, AgentOrder.REMOVE, force=request.force)
        return fleet_service_pb2.RemoveAgentResponse()

    @unary
    async def ResetBreaker(
        self, request: fleet_service_pb2.ResetBreakerRequest, context: Context
    ) -> fleet_service_pb2.ResetBreakerResponse:
        """Trust an agent, its work of one type, or an outside system again."""
        if bool(request.agent_id) == bool(request.system):
            raise invalid("system" if request.system else "agent_id", "name an agent or a system, and not both")
        if request.system and request.task_type:
            raise invalid("task_type", "a system has one breaker for all types")
        await asked(
            self._engine, lambda reply: BreakerReset(request.agent_id, request.task_type, request.system, reply)
        )
        agent = self._engine.state.agents.get(request.agent_id)
        return fleet_service_pb2.ResetBreakerResponse(agent=render.agent(agent) if agent is not None else None)

    @unary
    async def CreateJoinToken(
        self, request: fleet_service_pb2.CreateJoinTokenRequest, context: Context
    ) -> fleet_service_pb2.CreateJoinTokenResponse:
        """Let machines join."""
        address = self._join_address()
        if not address:
            raise errors.IllegalTransition(
                "no join port is open: run `outrider coordinator init --host NAME` on the coordinator's machine, or "
                "set listen_join, and start it again"
            )
        token, grant = await self._registrar.new_join_token(
            caller.get().name,
            agent=request.agent_id,
            labels=dict(request.labels),
            cidrs=request.cidrs,
            life_us=life_us(request.life_duration, "life_duration", JOIN_LIFE_US, JOIN_LIFE_MAX_US),
            uses=uses(request.uses),
        )
        return fleet_service_pb2.CreateJoinTokenResponse(token=token.text, facts=join_token(grant), address=address)

    @unary
    async def ListJoinTokens(
        self, request: fleet_service_pb2.ListJoinTokensRequest, context: Context
    ) -> fleet_service_pb2.ListJoinTokensResponse:
        """Tokens that are still good for something."""
        good = self._registrar.book.good_joins()
        return fleet_service_pb2.ListJoinTokensResponse(tokens=[join_token(grant) for grant in good])

    @unary
    async def RevokeJoinToken(
        self, request: fleet_service_pb2.RevokeJoinTokenRequest, context: Context
    ) -> fleet_service_pb2.RevokeJoinTokenResponse:
        """A token is good for nothing any more."""
        await self._registrar.revoke_join_token(request.token_id)
        return fleet_service_pb2.RevokeJoinTokenResponse()

    @unary
    async def RevokeAgent(
        self, request: fleet_service_pb2.RevokeAgentRequest, context: Context
    ) -> fleet_service_pb2.RevokeAgentResponse:
        """An agent's certificates are good for nothing any more."""
        await self._registrar.revoke_agent(request.agent_id)
        return fleet_service_pb2.RevokeAgentResponse()

    @unary
    async def GetCoordinator(
        self, request: fleet_service_pb2.GetCoordinatorRequest, context: Context
    ) -> fleet_service_pb2.GetCoordinatorResponse:
        """Version, epoch and load."""
        state = self._engine.state
        online = [agent for agent in state.agents.values() if agent.is_online]
        return fleet_service_pb2.GetCoordinatorResponse(
            version=outrider.__version__,
            store_id=self._engine.store.store_id,
            coordinator_epoch=state.epoch,
            start_time=render.timestamp(state.started_us),
            pending_count=state.count(TaskState.PENDING),
            queued_count=state.count(TaskState.QUEUED),
            running_count=state.count(TaskState.ASSIGNED) + state.count(TaskState.RUNNING),
            blocked_count=state.count(TaskState.BLOCKED),
            ended_count=state.ended_count,
            agents_online=len(online),
            agents_known=len(state.agents),
            slots_total=sum(agent.slots for agent in online),
            slots_used=sum(agent.slots_used for agent in online),
            last_cursor=self._engine.hub.last_cursor,
            commit_duration=render.duration(int(self._engine.commit_median_s * 1e6)),
            draining=self.is_draining,
            join_address=self._join_address(),
            fleet_alarm=state.watch.is_alarmed,
            queue_depth_max=state.settings.queue_depth_max,
        )


def _unknown(agent_id: str) -> errors.NotFound:
    return errors.NotFound(f"no agent {agent_id!r}; `outrider agent list` shows those there are")
